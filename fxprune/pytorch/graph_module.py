"""A graph module that pickles exactly, and whose code looks up each holder of layers once.

PyTorch's own code walks from ``self`` to every layer. An attribute of a module takes some half a microsecond, and a
network of small layers spends 5 % of its time on them.

PyTorch pickles the code of a graph module and traces it again at load, which loses blocks such as ``torch.autocast``
and runs guards on proxies. Where that makes the same graph, we leave it to PyTorch, so that the file loads without
fxprune; otherwise we write the nodes themselves.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.graph_module import reduce_graph_module

from fxprune.errors import OptionError
from fxprune.pytorch.modes import show_blocks
from fxprune.pytorch.torch_private import CLASS_NAME, LINES, MADE_AGAIN, OpOverload, overload_names, tracer_class

_OURS = "fxprune_"
# The keys of a narrow network's meta that hold plans.
_PLANS = ("plan", "earlier", "composed")
# A result, and the layer or tensor that it takes: `add = getattr(self.blocks, "0").norm(`.
_LINE = re.compile(r'( *\w+(?: ?: ?[^=]+)? = )((?:getattr\()*self(?:\.\w+|, "[^"]*"\))+)(.*)')
_STEP = re.compile(r'\.(\w+)|, "([^"]*)"\)')

TransformCode = Callable[[list[str]], list[str]]


class GraphModule(fx.GraphModule):
    """A graph module that can be pickled; the plans in its ``meta`` become JSON values."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph; say which argument is no tensor where the graph needs one."""
        try:
            return super().__call__(*args, **kwargs)
        except (AttributeError, TypeError) as error:
            if why := _not_a_tensor(self.graph, args, kwargs):
                raise OptionError(why) from error
            raise

    def recompile(self) -> Any:
        """Generate the code anew, in which each module that holds layers is looked up once."""
        with self.graph.on_generate_code(_binding):
            return super().recompile()

    def __deepcopy__(self, memo: dict[int, Any]) -> fx.GraphModule:
        """Copy under the name of the captured class, which PyTorch's own copy loses."""
        twin: fx.GraphModule = super().__deepcopy__(memo)
        type(twin).__name__ = type(self).__name__
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        body = {key: value for key, value in vars(self).items() if key not in MADE_AGAIN}
        body["meta"] = {key: _plain(value) if key in _PLANS else value for key, value in self.meta.items()}
        by_torch = self._reduced_by_torch(body)
        if by_torch is not None:
            return by_torch
        return _rebuilt, (type(self).__name__, body, _written(self.graph), tracer_class(self.graph))

    def _reduced_by_torch(self, body: dict[str, Any]) -> tuple[Any, ...] | None:
        """Return how PyTorch pickles this module; None if that would give another graph."""
        nodes = list(self.graph.nodes)
        if any(key.startswith(_OURS) and value != node.name for node in nodes for key, value in _notes(node)):
            return None
        function, (_, imports), *_ = super().__reduce__()
        if "fxprune" in imports:
            return None
        lines = {node.name: node.stack_trace for node in nodes if node.stack_trace}
        own = {**body, CLASS_NAME: type(self).__name__, LINES: lines}
        meta = own.pop("meta")
        if not all(map(_is_plain, meta.values())):
            return None
        try:
            again = reduce_graph_module(dict(own), imports)
        except Exception:  # code that does not run on proxies may raise anything
            return None
        if not isinstance(again, fx.GraphModule) or again.code != self.graph.python_code("self").src:
            return None
        return function, (own, imports), {"meta": meta}


def _not_a_tensor(graph: fx.Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Say which argument is no tensor although the graph uses it as one."""
    placeholders = graph.find_nodes(op="placeholder")
    for node, value in (*zip(placeholders, args), *((n, kwargs[n.target]) for n in placeholders if n.target in kwargs)):
        users = [user for user in node.users if user.target not in (operator.getitem, getattr)]
        if users and not isinstance(value, (torch.Tensor, fx.Proxy)) and not any(map(_guards, users)):
            return (
                f"argument `{node.target}` is of type {type(value).__name__}, and a tensor in this network: give one, "
                "as `torch.as_tensor(...)` makes it, or couple the network again with such inputs."
            )
    return ""


def _guards(node: fx.Node) -> bool:
    return getattr(node.target, "__module__", "").startswith("fxprune.arguments")


@dataclass(frozen=True)
class _Ref:
    """The place of a node in its graph."""

    place: int


@dataclass(frozen=True)
class _Overload:
    """An ATen operator by its names: PyTorch's own objects cannot be pickled."""

    space: str
    packet: str
    overload: str


def _plain(plan: Any) -> Any:
    """Write plans, which hold the wide network, as JSON values."""
    if isinstance(plan, tuple):
        return tuple(map(_plain, plan))
    return plan.to_json() if hasattr(plan, "to_json") else plan


def _is_plain(value: Any) -> bool:
    """Tell whether a value can be read without fxprune."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, torch.Tensor))


def _notes(node: fx.Node) -> Iterator[tuple[str, Any]]:
    """Yield what is kept of a node's meta: its line, and what a rewrite noted."""
    for key, value in node.meta.items():
        if key == "stack_trace" or key.startswith(_OURS):
            yield key, value


def _written(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """Write the nodes of a graph as tuples that can be pickled."""
    place = {node: index for index, node in enumerate(graph.nodes)}

    def written(leaf: Any) -> Any:
        return _Ref(place[leaf]) if isinstance(leaf, fx.Node) else leaf

    def arguments(node: fx.Node) -> Any:
        return fx.node.map_aggregate((node.args, node.kwargs), written)

    return [
        (node.op, _named(node.target), *arguments(node), node.name, node.type, dict(_notes(node)))
        for node in graph.nodes
    ]


@dataclass(frozen=True)
class _Function:
    """A function by its public name, if it is defined inside another one, as `F.max_pool1d` is."""

    name: str


def _named(target: Any) -> Any:
    if isinstance(target, OpOverload):
        return _Overload(*overload_names(target))
    local = "<locals>" in getattr(target, "__qualname__", "")
    public = local and getattr(F, target.__name__, None) is target
    return _Function(target.__name__) if public else target


def _rebuilt(name: str, body: dict[str, Any], nodes: list[tuple[Any, ...]], tracer: Any) -> GraphModule:
    """Make a graph module again from its state and its nodes."""
    graph = fx.Graph(tracer_cls=tracer)
    made: list[fx.Node] = []

    def value(leaf: Any) -> Any:
        return made[leaf.place] if isinstance(leaf, _Ref) else leaf

    for op, target, args, kwargs, called, kind, notes in nodes:
        if isinstance(target, _Overload):
            target = getattr(getattr(getattr(torch.ops, target.space), target.packet), target.overload)
        if isinstance(target, _Function):
            target = getattr(F, target.name)
        args, kwargs = fx.node.map_aggregate((args, kwargs), value)  # type: ignore[misc]
        made.append(graph.create_node(op, target, tuple(args), dict(kwargs), called, kind))
        made[-1].meta = notes
    module = GraphModule(nn.Module(), fx.Graph(tracer_cls=tracer), class_name=name)
    vars(module).update(body)
    show_blocks(graph)
    module.graph = graph
    return module


def _binding(earlier: TransformCode | None) -> TransformCode:
    """Return what changes the lines of generated code, after what changed them before."""
    return functools.partial(_bound, earlier)


def _bound(earlier: TransformCode | None, body: list[str]) -> list[str]:
    text = "".join(body if earlier is None else earlier(body))
    mark = "_"
    while re.search(rf"\b{mark}", text):
        mark += "_"
    names: dict[tuple[str, ...], str] = {(): "self"}
    lines: list[str] = []
    for line in text.split("\n"):
        if found := _LINE.fullmatch(line):
            start, path, rest = found.groups()
            steps = tuple(plain or quoted for plain, quoted in _STEP.findall(path))
            for depth in range(1, len(steps)):
                held = steps[:depth]
                if held not in names:
                    indent = " " * (len(start) - len(start.lstrip()))
                    made = _step(names[held[:-1]], held[-1])
                    names[held] = _new_name(mark + "_".join(held), names.values())
                    lines.append(f"{indent}{names[held]} = {made}")
            line = f"{start}{_step(names[steps[:-1]], steps[-1])}{rest}"
        lines.append(line)
    return ["\n".join(lines)]


def _new_name(wanted: str, taken: Collection[str]) -> str:
    name = re.sub(r"\W", "_", wanted)
    return name if name not in taken else _new_name(f"{wanted}_", taken)


def _step(holder: str, name: str) -> str:
    return f"{holder}.{name}" if name.isidentifier() else f'getattr({holder}, "{name}")'
