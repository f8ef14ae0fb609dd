"""Lengths of narrow axes, and guards of those that tell the places of channels.

As long together as in the example, one of two joined images may be longer and the other one shorter. A weight that
reads both finds channels at other places; so it may in what is repeated, or cut by how long it is.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence, Set
from typing import Any

from torch import fx

from fxprune.arguments.guards import guard_equal
from fxprune.node_facts import Shape
from fxprune.pytorch.call_targets import (
    EXPANSIONS,
    INDICES,
    INTERLEAVED,
    JOINS,
    PADS,
    PUTS,
    REPEATS,
    SLICES,
    SPLITS,
    call_kind,
)
from fxprune.pytorch.torch_private import pytree

from .axes import CUTS, STACKS, is_constant
from .site import EXAMPLE, Site

# Calls that name places along an axis.
_PLACES = SLICES | INDICES | SPLITS | PADS | PUTS
_OF_INPUTS = "fxprune_of_inputs"  # marks the guards of inputs, of which one graph needs each once


def is_open(size: Any) -> bool:
    """A size of -1 adapts by itself."""
    return bool(size == -1)


def length_in(site: Site, shape: Shape, dim: int) -> int:
    """Return the narrow length of an axis at the example's sizes."""
    codes = shape.axes[dim]
    return shape.sizes[dim] if codes is None else int(site.kept(codes).sum())


def guard_inputs(site: Site, axes: Set[tuple[str, int]] | None = None) -> None:
    """Guard the sizes of all inputs, where a tensor was flattened in a way that is not known.

    Args:
        site: a call that reads it.
        axes: these axes of inputs only, by name and number.
    """
    guards = site.graph.find_nodes(op="call_function", target=guard_equal)
    known = {guard.meta.get(_OF_INPUTS) for guard in guards}
    for node in site.graph.find_nodes(op="placeholder"):
        for path, shape in pytree.tree_flatten_with_path(site.coupling.nodes[node.name].value)[0]:
            name = f"{node}{pytree.keystr(path)}"
            sizes = shape.sizes if isinstance(shape, Shape) else ()
            wanted = [(name, dim) for dim in range(len(sizes)) if axes is None or (name, dim) in axes]
            dims = [dim for _, dim in wanted if (name, dim) not in known]
            given = _leaf(site, node, path) if dims else node
            for dim in dims:
                found = site.graph.create_node("call_method", "size", (given, dim))
                where = f"size {dim} of `{name}`, flattened before `{site.node}`,"
                site.call(guard_equal, found, sizes[dim], where).meta[_OF_INPUTS] = name, dim


def _leaf(site: Site, node: fx.Node, path: Sequence[Any]) -> fx.Node:
    """Take a tensor out of an input that is a list, a dict, or another container."""
    for key in path:
        if isinstance(key, pytree.GetAttrKey):
            node = site.call(getattr, node, key.name)
        else:
            node = site.call(operator.getitem, node, key.idx if isinstance(key, pytree.SequenceKey) else key.key)
    return node


def is_read(site: Site, node: fx.Node, length: int) -> bool:
    """Tell whether an axis of channels beside positions meets a weight, or an index."""
    nodes, seen = site.coupling.nodes, {(node, length)}
    todo = [*seen]
    while todo:
        node, length = todo.pop()
        is_tensor = isinstance(nodes[node.name].value, Shape)  # not pieces, of which an index takes one
        for user in node.users:
            if user.op == "output":
                continue
            if _is_reader(site, user, length, is_tensor):
                return True
            made = [each for each in pytree.tree_leaves(nodes[user.name].value) if isinstance(each, Shape)]
            # Joined with itself or repeated, the axis is longer; it is shorter where a view takes it apart again.
            sizes = {shape.sizes[d] for shape in made for d in shape.varying}
            new = {(user, size) for size in sizes if size >= length} - seen
            seen |= new
            todo += new
    return False


def _is_reader(site: Site, user: fx.Node, length: int, of_tensor: bool) -> bool:
    """Tell whether a call names places in an axis, or brings channels of another tensor."""
    nodes, module = site.coupling.nodes, site.coupling.graph_module
    layer = module.get_submodule(str(user.target)) if user.op == "call_module" else None
    owns = layer is not None and any(True for _ in itertools.chain(layer.parameters(), layer.buffers()))
    named = of_tensor and user.op != "call_module" and call_kind(user) in _PLACES
    named = named or site.orders.sources.name(user) in CUTS
    constants = [nodes[each.name].value for each in user.all_input_nodes if is_constant(each)]
    met = any(_has_channels(nodes[each.name].value, length) for each in user.all_input_nodes)
    return owns or named or met or any(_may_meet(each, length) for each in constants)


def _has_channels(value: Any, length: int) -> bool:
    """Tell whether a tensor has an axis of channels alone of this length."""
    if not isinstance(value, Shape):
        return False
    alone = (dim for dim, codes in enumerate(value.axes) if codes is not None and dim not in value.varying)
    return any(value.sizes[dim] == length for dim in alone)


def _may_meet(constant: Any, length: int) -> bool:
    """Tell whether a constant may have the axis: a vector has none of another length."""
    return not isinstance(constant, Shape) or len(constant.sizes) != 1 or constant.sizes[0] == length


def guard_places(site: Site) -> None:
    """Guard what tells the places of channels in the result of a call, which comes next."""
    node, orders, kind = site.node, site.orders, call_kind(site.node)
    value = site.coupling.nodes[node.name].value
    _guard_own_code(site)
    if not isinstance(value, Shape) or node.op == "output":
        return
    name = orders.sources.name(node) if node.op != "placeholder" else ""
    if kind in JOINS or name in STACKS:
        dim = orders.sources.joined(node)
        if dim is None or site.value.axes[dim] is not None:
            _guard_number(site)
        if dim is not None and site.value.axes[dim] is not None:
            _guard_joined(site, value, dim)
    if kind in REPEATS | INTERLEAVED:
        _guard_repeated(site, value)
    if kind in REPEATS | INTERLEAVED | EXPANSIONS:
        _guard_counts(site, value)
    for each, dim in orders.cut(node, site.narrowing):
        if (narrow := site.narrow(each)) is not None:
            _guard_size(site, narrow, dim, orders.sources.shape(each))
        else:
            guard_inputs(site)
    if any(is_read(site, node, value.sizes[dim]) for dim in orders.lost(node, site.narrowing)):
        guard_inputs(site)


def _guard_own_code(site: Site) -> None:
    """Guard sizes where code that is not PyTorch's may lay out channels otherwise for others."""
    if (binds := site.coupling.nodes[site.node.name].binds) and _narrows(site):
        guard_inputs(site, binds)


def _narrows(site: Site) -> bool:
    """Tell whether a call gets, returns or has weights of channels of which some leave."""
    node, nodes = site.node, site.coupling.nodes
    values = pytree.tree_leaves([nodes[each.name].value for each in (node, *node.all_input_nodes)])
    if any(isinstance(each, Shape) and site.narrowing(each).labelled for each in values):
        return True
    widths = site.plan.widths.items()
    groups = [site.coupling.groups[name] for name, (wide, narrow) in widths if narrow < wide]
    names = (axis.parameter for group in groups for axis in (*group.tied, *group.readers))
    return node.op == "call_module" and any(name.startswith(f"{node.target}.") for name in names)


def _guard_number(site: Site) -> None:
    """Guard how many tensors a call joins along channels: pieces of an axis may be more."""
    given = _tensors(site)
    if isinstance(given, fx.Node) and site.value.labelled:
        for wide, narrow in _lists(given, site.parameter(0, "tensors")):
            tensors = site.coupling.nodes[wide.name].value
            if isinstance(tensors, (tuple, list)):
                count = site.call(len, narrow)
                site.call(guard_equal, count, len(tensors), f"the number of tensors that `{site.node}` joins")


def _lists(wide: Any, narrow: Any) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield the lists that a graph adds to one, wide and narrow."""
    if isinstance(wide, fx.Node) and wide.target in (operator.add, operator.iadd):
        for given, made in zip(wide.args, narrow.args, strict=True):
            yield from _lists(given, made)
    elif isinstance(wide, fx.Node):
        yield wide, narrow


def _guard_joined(site: Site, value: Shape, dim: int) -> None:
    """Guard the lengths of tensors that a call joins, if something names places."""
    orders, wide = site.orders, _tensors(site)
    if not isinstance(wide, (tuple, list)):  # pieces
        pieces = [each for each in pytree.tree_leaves(site.coupling.nodes[str(wide)].value) if isinstance(each, Shape)]
        if any(dim in each.varying for each in pieces) and is_read(site, site.node, value.sizes[dim]):
            guard_inputs(site)
        return
    axes = {each: orders.sources.shape(each) for each in wide if isinstance(each, fx.Node)}
    lengths = {each: orders.lengths.of(each, dim) for each in axes}
    unknown = {length.powers for length in lengths.values()} - {frozenset()}
    # Where one length alone is unknown, or channels lie behind all positions, that of the whole tells the places.
    if len(unknown) < 2 or orders.side(orders.of(site.node, dim)):
        return
    if is_read(site, site.node, value.sizes[dim]):
        for each, narrow in zip(wide, site.parameter(0, "tensors"), strict=True):
            if each in lengths and lengths[each].powers:
                _guard_size(site, narrow, dim, axes[each])


def _guard_repeated(site: Site, value: Shape) -> None:
    """Guard lengths that are repeated by numbers of the graph, if something names places."""
    orders, given = site.orders, site.orders.sources.tensors(site.node)[:1]
    for dim in range(len(value.sizes)) if given else ():
        shape = orders.sources.shape(given[0])
        at = dim - len(value.sizes) + len(shape.sizes)
        if at < 0 or site.value.axes[dim] is None or not (length := orders.lengths.of(given[0], at)).powers:
            continue
        told = orders.lengths.told(site.node, dim)
        is_known = told is not None and not told.over(length).powers  # so many times for any inputs
        if not is_known and is_read(site, site.node, value.sizes[dim]):
            _guard_size(site, site.parameter(0, "input"), at, shape)


def _guard_counts(site: Site, value: Shape) -> None:
    """Guard how often a call repeats positions that met channels, as many as in the example."""
    met = [dim for dim, codes in enumerate(site.value.axes) if codes is not None and dim not in value.varying]
    counts = site.args[1] if len(site.args) == 2 and isinstance(site.args[1], (tuple, list)) else site.args[1:]
    for dim in met:
        count = counts[dim] if len(counts) == len(value.sizes) else None
        for each in [count] if count is not None else pytree.tree_leaves((counts, site.kwargs)):
            if isinstance(each, fx.Node) and EXAMPLE in each.meta:
                site.call(guard_equal, each, each.meta[EXAMPLE], f"a size in `{site.node}`")


def _guard_size(site: Site, narrow: fx.Node, dim: int, shape: Shape) -> None:
    """Guard that an axis of what a call reads is as long as in the example."""
    size = site.graph.create_node("call_method", "size", (narrow, dim), {}, f"{site.node.name}_size")
    site.call(guard_equal, size, length_in(site, shape, dim), f"size {dim} before `{site.node}`")


def _tensors(site: Site) -> Any:
    """Return what a call joins, in the wide graph."""
    return site.node.args[0] if site.node.args else site.node.kwargs["tensors"]
