"""A branch on values of a tensor is a check if one side only raises; it stays in the graph."""

from __future__ import annotations

import builtins
import dis
import functools
from types import CodeType, FrameType

import torch
from torch import fx, nn

from fxprune.pytorch.source import is_tracing_code, line_of
from fxprune.pytorch.torch_private import assert_tensor

# Instructions around a jump that do nothing by themselves.
_IDLE = ("TO_BOOL", "NOT_TAKEN", "CACHE", "EXTENDED_ARG")
_JUMPS = frozenset((*dis.hasjrel, *dis.hasjabs))
# Errors that Python itself handles: in loops, `hasattr` and `getattr`.
_ANSWERS = (AttributeError, LookupError, StopIteration, StopAsyncIteration)
# Code of PyTorch around that of a model, which handles errors only to raise them again.
_AROUND = frozenset({nn.Module.__call__.__code__.co_filename, torch.no_grad.__call__.__code__.co_filename})


def check(proxy: fx.Proxy, asker: FrameType) -> bool | None:
    """Record a check, if the other answer raises an error; return the answer that goes on.

    An error that code of the model, or Python, may handle is no check: there the model goes on.
    """
    passes, names = _passes(asker.f_code, asker.f_lasti)
    if passes is None or not _ends(asker, names):
        return None
    holds = proxy if passes else proxy.logical_not()
    said = f"the check at {line_of(asker)} fails"
    proxy.tracer.create_proxy("call_function", assert_tensor, (holds, said), {})
    return passes


def _ends(asker: FrameType, names: tuple[str, ...]) -> bool:
    """Tell whether an error of one of these names ends the call of the model."""
    found = [asker.f_globals.get(name, getattr(builtins, name, None)) for name in names]
    errors = [each for each in found if isinstance(each, type) and issubclass(each, BaseException)]
    if not errors or issubclass(errors[0], _ANSWERS):
        return False
    frame: FrameType | None = asker
    while frame is not None and not (frame.f_code.co_name == "trace" and is_tracing_code(frame.f_code.co_filename)):
        path = frame.f_code.co_filename
        if not is_tracing_code(path) and path not in _AROUND and _is_handled(frame.f_code, frame.f_lasti):
            return False
        frame = frame.f_back
    return True


@functools.lru_cache(maxsize=1024)
def _is_handled(code: CodeType, instruction: int) -> bool:
    """Tell whether an error at an instruction enters an ``except``, a ``finally`` or a ``with``."""
    if not code.co_exceptiontable:
        return False
    handlers = {step.offset for step in dis.get_instructions(code) if step.opname == "PUSH_EXC_INFO"}
    entries = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]
    return any(entry.start <= instruction < entry.end and entry.target in handlers for entry in entries)


@functools.lru_cache(maxsize=1024)
def _passes(code: CodeType, instruction: int) -> tuple[bool | None, tuple[str, ...]]:
    """Return the answer with which code goes on, if the other raises an error, and its names."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _IDLE or step.offset == instruction]
    place = next(n for n, step in enumerate(steps) if step.offset == instruction)
    place += steps[place].opname == "TO_BOOL"
    jump = steps[place]
    if not jump.opname.startswith("POP_JUMP") or not jump.opname.endswith(("IF_TRUE", "IF_FALSE")):
        return None, ()
    jumps_if = jump.opname.endswith("TRUE")
    target = next((n for n, step in enumerate(steps) if step.offset >= jump.argval), len(steps))
    falls, leaps = (_raised(code, steps[start:]) for start in (place + 1, target))
    if bool(falls) == bool(leaps):
        return None, ()
    return (jumps_if, falls) if falls else (not jumps_if, leaps)


def _raised(code: CodeType, steps: list[dis.Instruction]) -> tuple[str, ...]:
    """Return the names that code reads until it raises an error; none if it does not."""
    names = list[str]()
    for step in steps:
        if step.opname == "RAISE_VARARGS":
            return () if _is_handled(code, step.offset) else (*names,)
        if step.opcode in _JUMPS or step.opname.startswith(("RETURN", "YIELD", "RERAISE", "STORE")):
            break
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.append(step.argval)
        elif step.opname == "LOAD_ASSERTION_ERROR":
            names.append("AssertionError")
    return ()
