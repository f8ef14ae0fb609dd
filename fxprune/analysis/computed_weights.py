"""Store weights that the model computes from others (weight standardisation, weight norm).

The rows of such a weight follow the rows of the tensor w that it is computed from, so they are tied in w, where
training sees them. Its columns do not: a sum of columns of ``f(w)`` is in general not ``f`` of another weight. So the
graph reads ``f(w)`` itself, under the name of ``w``, and a merge sums the columns of ``f(w)``. Where ``f`` does
something else in training mode (spectral norm updates its vectors there), the graph raises an error in that mode.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxprune.arguments.guards import guard_equal
from fxprune.capture import refuse_training
from fxprune.pytorch.call_targets import VIEWS, call_kind, reads_sizes
from fxprune.pytorch.graph_module import GraphModule
from fxprune.pytorch.graphs import with_ancestors
from fxprune.pytorch.modules import MetaMode, clone_sharing, to_meta
from fxprune.pytorch.torch_private import pytree, tracer_class

from .labels import is_labelled


@dataclass(frozen=True, eq=False)
class CapturedGraph:
    """A captured graph, and the functions of the computed weights that it reads as stored ones.

    Attributes:
        graph_module: reads computed weights under the names of the stored ones of the same shape.
        functions: name -> graph without inputs that computes the weight from the tensors of the model.
    """

    graph_module: fx.GraphModule
    functions: Mapping[str, fx.GraphModule] = field(default_factory=dict)


def store_computed_weights(
    graph_module: fx.GraphModule, users: Iterable[str], values: Mapping[str, Any]
) -> CapturedGraph:
    """Store the computed weights that these nodes contract with activations, where possible.

    A weight can be stored if it is computed from stored tensors only, and one of them has its shape and no other use.
    The given module is not modified.
    """
    module = clone_sharing(graph_module)
    assert isinstance(module, fx.GraphModule)
    known, wanted = _known(module), set(users)
    _erase_size_readers(module, known, values)
    weights: dict[str, list[fx.Node]] = {}

    def storable(weight: fx.Node) -> str | None:
        if weight not in known or weight.op == "get_attr" or not _is_computed(values[weight.name]):
            return None
        return _stored_like(module, weight, tuple(values[weight.name][0]))

    for node in module.graph.nodes:
        if node.name not in wanted or node in known:
            continue
        for given in node.all_input_nodes:
            found = [
                (weight, name) for weight in _behind_views(given, values) if (name := storable(weight)) is not None
            ]
            if found and found[-1][0] not in weights.setdefault(found[-1][1], []):
                weights[found[-1][1]].append(found[-1][0])
    reads: dict[fx.Node, set[int]] = {}
    functions = {
        name: f for name, nodes in weights.items() if (f := _store_one(module, name, nodes, reads, values)) is not None
    }
    if not functions:
        return CapturedGraph(graph_module)
    storing = GraphModule(module, module.graph, class_name=type(graph_module).__name__)
    storing.meta.update(graph_module.meta)
    if other := [name for name, function in functions.items() if _operators(function) != _operators(function, True)]:
        refuse_training(
            storing,
            f"it computes {', '.join(f'`{name}`' for name in other)} in another way, and a narrow network only has the "
            "result (to train it, remove parametrizations before `couple`: `parametrize.remove_parametrizations`)",
        )
    return CapturedGraph(storing, functions)


def _known(module: fx.GraphModule) -> set[fx.Node]:
    """Find the nodes that depend on stored tensors only, not on inputs, draws or new tensors."""
    known: set[fx.Node] = set()
    for node in module.graph.nodes:
        given = node.all_input_nodes
        if node.op == "get_attr":
            stored = True
        elif node.op == "call_module":
            stored = next(module.get_submodule(str(node.target)).parameters(), None) is not None and known >= set(given)
        else:
            stored = node.op in ("call_function", "call_method") and bool(given) and known >= set(given)
        if stored and not node.is_impure():
            known.add(node)
    return known


def _erase_size_readers(module: fx.GraphModule, known: set[fx.Node], values: Mapping[str, Any]) -> None:
    """Erase guards of the sizes of stored tensors, which hold at any input, and unused sizes."""
    sizes: set[fx.Node] = set()
    for node in module.graph.nodes:
        is_number = node in known and node.op != "get_attr" and not is_labelled(values[node.name])
        if is_number and (reads_sizes(node) or sizes >= set(node.all_input_nodes)):
            sizes.add(node)
    for node in reversed(module.graph.nodes):
        if (node.target is guard_equal and node.args[0] in sizes) or (node in sizes and not node.users):
            known.discard(node)
            module.graph.erase_node(node)


def _behind_views(node: fx.Node, values: Mapping[str, Any]) -> Iterator[fx.Node]:
    """Yield a node and the tensors that it is a view of, as of ``f(w).reshape(c, c, 1, 1)``."""
    while True:
        yield node
        tensors = [given for given in node.all_input_nodes if is_labelled(values.get(given.name))]
        if len(tensors) != 1 or call_kind(node) not in VIEWS:
            return
        (node,) = tensors


def _is_computed(value: Any) -> bool:
    return is_labelled(value) and not value[1].is_parameter


def _stored_like(module: fx.GraphModule, weight: fx.Node, shape: tuple[int, ...]) -> str | None:
    """Name the first stored tensor of this shape that a weight depends on."""
    stored = _stored(module, with_ancestors([weight]))
    return next((name for name, tensor in stored if tuple(tensor.shape) == shape), None)


def _store_one(
    module: fx.GraphModule, name: str, weights: list[fx.Node], reads: dict[fx.Node, set[int]], values: Mapping[str, Any]
) -> fx.GraphModule | None:
    """Store a weight that one or more nodes compute; return its function, or None if impossible.

    ``reads`` is filled with the identities of the parameters that each node reads.
    """
    function = _function(module, weights[0])
    if _draws(function) or any(_function(module, weight).code != function.code for weight in weights[1:]):
        return None
    stored = attrgetter(name)(module)
    with torch.no_grad(), MetaMode():  # type: ignore[no-untyped-call]
        if to_meta(function)().dtype != stored.dtype:
            return None
    above = with_ancestors(weights)
    like = {node for node in above if _has_form(values.get(node.name), values[weights[0].name])}
    readers = {user for node in like for user in node.users if _reads_form(user, stored=node.target == name)}
    gone = _unused_without(weights, above, readers)
    for node in module.graph.nodes:
        if node not in reads:
            reads[node] = {id(other) for _, other in _stored(module, [node])}
        if node not in gone and id(stored) in reads[node]:
            return None
    if readers := readers - gone:
        with module.graph.inserting_before(above[0]):
            read = module.graph.get_attr(name)
        read.meta = dict(weights[0].meta)
        for reader in readers:
            reader.replace_input_with(reader.all_input_nodes[0], read)
    for weight in weights:
        with module.graph.inserting_before(weight):
            read = module.graph.get_attr(name)
        read.meta = dict(weight.meta)
        weight.replace_all_uses_with(read)
    for node in reversed(above):
        if node in gone:
            module.graph.erase_node(node)
    return function


def _has_form(value: Any, weight: Any) -> bool:
    """Tell whether a tensor has the sizes of a weight, and channels of it on the same axes."""
    if not is_labelled(value) or value[0] != weight[0]:
        return False
    pairs = itertools.product(enumerate(value[1].axes), enumerate(weight[1].axes))
    shared = {(i, j) for (i, a), (j, b) in pairs if a is not None and b is not None and np.isin(a, b).any()}
    return bool(shared) and all(i == j for i, j in shared)


def _reads_form(node: fx.Node, *, stored: bool) -> bool:
    kinds = ("dtype", "device") if stored else ()
    return reads_sizes(node) or (node.target is getattr and node.args[1] in kinds)


def _unused_without(weights: list[fx.Node], above: list[fx.Node], readers: set[fx.Node]) -> set[fx.Node]:
    """Return the nodes above that are unused once weights and readers read stored ones."""
    gone = set(weights)
    for node in reversed(above):
        if gone | readers >= set(node.users):
            gone.add(node)
    return gone


def _stored(module: fx.GraphModule, nodes: Iterable[fx.Node]) -> list[tuple[str, torch.Tensor]]:
    """List the parameters that nodes read, by name."""
    found: list[tuple[str, torch.Tensor]] = []
    for node in nodes:
        if node.op == "get_attr":
            tensor = attrgetter(str(node.target))(module)
            if isinstance(tensor, nn.Parameter):
                found.append((str(node.target), tensor))
        elif node.op == "call_module":
            inside = module.get_submodule(str(node.target)).named_parameters(remove_duplicate=False)
            found += [(f"{node.target}.{name}", parameter) for name, parameter in inside]
    return found


def _function(module: fx.GraphModule, weight: fx.Node) -> fx.GraphModule:
    """Make a graph without inputs that returns a weight; equal graphs have equal code."""
    graph = fx.Graph(tracer_cls=tracer_class(module.graph))
    copies: dict[fx.Node, fx.Node] = {}
    for node in with_ancestors([weight]):
        args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
        copies[node] = graph.create_node(node.op, node.target, args, kwargs)
        copies[node].meta = dict(node.meta)
    graph.output(copies[weight])
    return GraphModule(module, graph, class_name="Weight")


def _draws(function: fx.GraphModule) -> bool:
    """Tell whether a function draws random numbers, so that each call gives another weight."""
    return any(torch.Tag.nondeterministic_seeded in op.tags for op, _ in _operators(function))


def _operators(function: fx.GraphModule, training: bool = False) -> list[tuple[Any, list[Any]]]:
    """List the operators of a function in one mode, with their numbers."""
    mode = _OperatorCalls()
    with torch.no_grad(), mode:
        to_meta(function).train(training)()
    return mode.found


class _OperatorCalls(MetaMode):
    """A mode that notes operators and their numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[Any, list[Any]]] = []

    def done(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, layout: tuple[Any, Any] | None
    ) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        self.found.append((func, [leaf for leaf in leaves if not isinstance(leaf, torch.Tensor)]))
        return out
