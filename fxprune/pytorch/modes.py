"""Enter and leave modes by nodes of a graph, and show these as ``with`` blocks in its code.

A mode is autocast, the recording of gradients, or inference. PyTorch keeps it outside of any tensor, so that a trace
does not see it. While a model is traced, its ``with`` blocks become pairs of nodes (:func:`enter`, :func:`leave`),
and calls such as ``torch.is_grad_enabled()`` become nodes too. Generated code shows the pairs as blocks again.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import fx, nn

from .torch_private import C

set_autocast = torch.set_autocast_enabled  # also while that in `torch` is watched
# Classes of context managers by their names in `torch`.
MANAGERS = ("autocast", "no_grad", "enable_grad", "set_grad_enabled", "inference_mode")
QUESTIONS = (
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "is_autocast_enabled",
    "is_autocast_cpu_enabled",
    "is_autocast_cache_enabled",
    "get_autocast_dtype",
    "get_autocast_gpu_dtype",
    "get_autocast_cpu_dtype",
    "get_default_dtype",
)
_HERE = __name__.replace(".", "_")  # as generated code spells it
_ENTER = re.compile(rf"(\w+) = {_HERE}_enter\('(\w+)'(?:, )?(.*?)\)(?:;  [\w =]+)?")
_LEAVE = re.compile(rf"(?:\w+ = )?{_HERE}_leave\((\w+)\)(?:;  [\w =]+)?")


def question_holders(model: nn.Module) -> Iterator[tuple[ModuleType, str, str]]:
    """Yield modules that hold questions of ``torch``, with the name there and in ``torch``.

    Modules that define classes of the model are looked through; others may hold them under their own names only, as
    after ``from torch import is_autocast_enabled``. Modules of PyTorch ask for themselves.
    """
    names = {id(getattr(torch, name)): name for name in QUESTIONS}
    own = {sys.modules[path] for path in {type(each).__module__ for each in model.modules()} if path in sys.modules}
    for holder in {*_modules_with_questions(len(sys.modules)), *own}:
        if _is_of_torch(holder):
            continue
        found = list(vars(holder).items()) if holder in own else [(name, vars(holder).get(name)) for name in QUESTIONS]
        yield from ((holder, name, names[id(value)]) for name, value in found if id(value) in names)


@functools.lru_cache(1)
def _modules_with_questions(loaded: int) -> list[ModuleType]:
    """List the modules with a name of a question, anew where other modules are loaded."""
    named = (each for each in list(sys.modules.values()) if isinstance(each, ModuleType))
    return [each for each in named if not vars(each).keys().isdisjoint(QUESTIONS)]


def _is_of_torch(module: ModuleType) -> bool:
    return module.__name__.partition(".")[0] == "torch" and module not in (torch, C)


@fx.node.has_side_effect
def enter(manager: str, *args: Any, **kwargs: Any) -> Any:
    """Enter ``torch.<manager>(*args, **kwargs)``, until :func:`leave` gets what this returns."""
    context = getattr(torch, manager)(*args, **kwargs)
    context.__enter__()
    return context


@fx.node.has_side_effect
def leave(context: Any) -> None:
    """Leave a context that :func:`enter` entered."""
    context.__exit__(None, None, None)


def show_blocks(graph: fx.Graph) -> None:
    """Generate ``with`` blocks for the modes of a graph, so that an exception also leaves them."""
    if any(node.target is enter for node in graph.nodes):
        graph.on_generate_code(_code_transformer)


def _code_transformer(_: Any) -> Callable[[list[str]], list[str]]:
    return _with_blocks


def _with_blocks(body: list[str]) -> list[str]:
    """Replace each pair of lines by a block; return the lines as they are if pairs overlap."""
    lines, inside = [], list[str]()
    for line in "".join(body).split("\n"):
        if found := _ENTER.fullmatch(line):
            name, manager, arguments = found.groups()
            lines += [f"{'    ' * len(inside)}with torch.{manager}({arguments}):", f"{'    ' * (len(inside) + 1)}pass"]
            inside.append(name)
        elif found := _LEAVE.fullmatch(line):
            if not inside or inside.pop() != found[1]:
                return body
        else:
            lines.append("    " * len(inside) + line if line else line)
    return body if inside else ["\n".join(lines)]


def is_mode(node: fx.Node) -> bool:
    """Tell whether a node only enters or leaves a mode."""
    return node.target is enter or node.target is leave


@dataclass(frozen=True)
class _Given:
    """What a node that enters a mode returns in :class:`InModes`: the mode, not entered yet."""

    manager: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class InModes(fx.Interpreter):
    """Runs each node in the modes that are open there, and leaves them with it.

    So a run may stop anywhere, and runs may take turns.

    Attributes:
        around: a node inside modes -> the nodes that enter these, the outermost first; they must have values.
    """

    def __init__(
        self, module: nn.Module, *, garbage_collect_values: bool = True, graph: fx.Graph | None = None
    ) -> None:
        super().__init__(module, garbage_collect_values=garbage_collect_values, graph=graph)
        self.extra_traceback = False
        self.around = _entered_around(self.graph)

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; one that enters a mode returns what the mode is."""
        if n.target is enter:
            (manager, *args), kwargs = self.fetch_args_kwargs_from_env(n)
            return _Given(manager, (*args,), kwargs)
        if n.target is leave:
            return None
        with ExitStack() as modes:
            for node in self.around.get(n, ()):
                given = self.env[node]
                modes.enter_context(getattr(torch, given.manager)(*given.args, **given.kwargs))
            return super().run_node(n)


def _entered_around(graph: fx.Graph) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """Map each node inside a mode to those that enter the modes around it, the outermost first."""
    around: dict[fx.Node, tuple[fx.Node, ...]] = {}
    inside: tuple[fx.Node, ...] = ()
    for node in graph.nodes:
        if inside:
            around[node] = inside
        if node.target is enter:
            inside = (*inside, node)
        elif node.target is leave:
            inside = tuple(each for each in inside if each is not node.args[0])
    return around
