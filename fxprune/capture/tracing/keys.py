"""A size, type or device that is a key or a text finds other things for others.

No graph records ``table.get(size)``, ``f"{dtype}"`` or ``dtype is torch.float64``. They fail as long as sizes, types
and devices are dynamic, so that the next way decides by the example, with a guard. A text that is only printed, or told
by an assertion, decides nothing.
"""

from __future__ import annotations

import ast
import contextlib
import dis
import functools
import itertools
import linecache
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from fxprune.pytorch.source import is_machinery
from fxprune.pytorch.torch_private import assert_call

# Functions that tell the user something, if what they return is not used.
_TELL = {
    assert_call.__name__,
    "critical",
    "debug",
    "error",
    "exception",
    "info",
    "print",
    "warn",
    "warning",
    "warning_once",
}
_LOGGERS = ("logging", "warnings")
_KINDS = torch.dtype, torch.device, torch.layout, torch.memory_format


class SizeAsKey(TypeError):
    """The error for a key or text of a dynamic size, type or device."""

    def __init__(self, what: str = "decides which text or key the model uses") -> None:
        """Say what the size, type or device does."""
        super().__init__(f"a size, type or device {what}")


def of_model(frame: FrameType | None) -> FrameType | None:
    """Return the frame, or that behind code that only passes on; None if it is not the model's."""
    while frame is not None and _is_between(frame):
        frame = frame.f_back
    return None if frame is None or is_machinery(frame.f_code.co_filename) else frame


def _is_between(frame: FrameType) -> bool:
    """Tell whether a frame is of a dataclass, or of what stands for a stored tensor."""
    return frame.f_code.co_filename == "<string>" or frame.f_globals.get("__name__") == f"{__package__}.own_tensors"


@contextlib.contextmanager
def modules_by_identity(model: nn.Module) -> Iterator[None]:
    """Let PyTorch's tables of modules ask none of them for its hash; code of the model may."""
    modules = [module for _, module in model.named_modules(remove_duplicate=False)]
    plain: Any = object.__hash__
    kinds = {kind for kind in map(type, modules) if kind.__hash__ is not plain}
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            for name in ("__hash__", "__eq__"):
                given = getattr(kind, name)
                own = name in vars(kind)
                setattr(kind, name, _by_identity(getattr(object, name), given))
                stack.callback(*((setattr, kind, name, given) if own else (delattr, kind, name)))
        yield


def _by_identity(plain: Callable[..., Any], given: Callable[..., Any]) -> Callable[..., Any]:
    def asked(*modules: Any) -> Any:
        return (plain if of_model(sys._getframe(1)) is None else given)(*modules)

    return asked


def decides(frame: FrameType | None) -> bool:
    """Tell whether a text that is made in this frame may decide what a model computes."""
    frame = of_model(frame)
    if frame is None or str(frame.f_globals.get("__name__")).startswith(_LOGGERS):
        return False
    return not _is_told(frame.f_code, frame.f_lasti)


def compares_identity(frame: FrameType) -> bool:
    """Tell whether the code of a frame may ask ``a is b`` of a type or device."""
    return any(_may_be_kind(frame.f_globals, names) for names in _compared(frame.f_code))


def uses_identity(frame: FrameType) -> bool:
    """Tell whether a frame may ask ``a is b`` of what a call returns, or calls it."""
    around = [each for each in _around(frame.f_code, frame.f_lasti) if isinstance(each, ast.Call)]
    return bool(_compared(frame.f_code)) or (len(around) > 1 and around[-2].func is around[-1])


def _may_be_kind(scope: dict[str, Any], names: tuple[str, ...]) -> bool:
    """Tell whether what names lead to may be a type or device, or is not known."""
    value = scope.get(names[0]) if names else None
    for name in names[1:]:
        value = getattr(value, name, None)
    is_layer = isinstance(value, type) and issubclass(value, nn.Module)
    return value is None or (isinstance(value, (*_KINDS, type)) and not is_layer)


@functools.lru_cache(maxsize=1024)
def _compared(code: CodeType) -> list[tuple[str, ...]]:
    """List the names of each ``b`` of ``a is b`` that is no constant; () if it is not global."""
    steps = [*dis.get_instructions(code)]
    found: list[tuple[str, ...]] = []
    for place, step in enumerate(steps):
        if step.opname != "IS_OP" or steps[place - 1].opname == "LOAD_CONST":
            continue
        behind = itertools.takewhile(lambda each: each.opname == "LOAD_ATTR", reversed(steps[:place]))
        names = [each.argval for each in behind]
        first = steps[place - 1 - len(names)]
        found.append((first.argval, *reversed(names)) if first.opname == "LOAD_GLOBAL" else ())
    return found


@functools.lru_cache(maxsize=1024)
def stores_items(code: CodeType) -> bool:
    """Tell whether code stores items in tables, as a memo does."""
    return any(step.opname == "STORE_SUBSCR" for step in dis.get_instructions(code))


def cached_function(frame: FrameType) -> Any:
    """Return the function of :func:`functools.lru_cache` that a frame calls, or None."""
    innermost = _around(frame.f_code, frame.f_lasti)[-1:]  # not a look-up among the arguments of a call
    name = next(
        (each.func.id for each in innermost if isinstance(each, ast.Call) and isinstance(each.func, ast.Name)), ""
    )
    found = {**frame.f_globals, **frame.f_locals}.get(name)
    return found if hasattr(found, "cache_parameters") else None


def _is_told(code: CodeType, instruction: int) -> bool:
    """Tell whether an instruction belongs to a statement that only tells something."""
    statements = [node.value for node in _around(code, instruction) if isinstance(node, ast.Expr)]
    calls = [each.func for each in statements if isinstance(each, ast.Call)]
    return any(getattr(each, "attr", getattr(each, "id", "")) in _TELL for each in calls)


@functools.lru_cache(maxsize=1024)
def _around(code: CodeType, instruction: int) -> list[ast.expr | ast.stmt]:
    """List the statements and expressions around an instruction, the outermost first."""
    first, last, start, end = list(code.co_positions())[instruction // 2]
    if first is None or last is None or start is None or end is None:
        return []
    return [
        node
        for node in ast.walk(_tree(code.co_filename))
        if isinstance(node, ast.expr | ast.stmt)
        if (node.lineno, node.col_offset) <= (first, start)
        if (last, end) <= (node.end_lineno or 0, node.end_col_offset or 0)
    ]


@functools.lru_cache(maxsize=16)
def _tree(path: str) -> ast.AST:
    try:
        return ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return ast.Module([], [])
