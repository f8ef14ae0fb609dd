"""Guard the lengths that tell the places of channels in what is joined, repeated or cut.

As long together as in the example, one of two joined images may be longer and the other one shorter. A weight that
reads both finds channels at other places.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from torch import fx

from fxprune.arguments.guards import guard_equal
from fxprune.node_facts import Shape
from fxprune.pytorch.call_targets import (
    EXPANSIONS,
    INTERLEAVED,
    JOINS,
    REPEATS,
    call_kind,
    is_own_function,
    runs_own_code,
)
from fxprune.pytorch.torch_private import pytree

from .axes import STACKS
from .places import guard_inputs, is_read, length_in
from .site import EXAMPLE, Site


def guard_places(site: Site) -> None:
    """Guard what tells the places of channels in the result of a call, which comes next."""
    node, orders, kind = site.node, site.orders, call_kind(site.node)
    value = site.coupling.nodes[node.name].value
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
    _guard_own_code(site)
    if any(is_read(site, node, value.sizes[dim]) for dim in orders.lost(node, site.narrowing)):
        guard_inputs(site)


def _guard_own_code(site: Site) -> None:
    """Guard sizes where code that is not PyTorch's brings channels and positions to one axis."""
    node, orders = site.node, site.orders
    mixes = site.coupling.nodes[node.name].mixes
    if mixes is None or not (runs_own_code(node) or is_own_function(node)):
        return
    given = [each for each in orders.sources.tensors(node) if site.narrowing(orders.sources.shape(each)).labelled]
    for each in given:
        narrow, shape = site.narrow(each), orders.sources.shape(each)
        if mixes or narrow is None:
            guard_inputs(site)
            continue
        for dim in range(1, len(shape.sizes)):  # one position for any batch
            if shape.axes[dim] is None and orders.lengths.of(each, dim).powers:
                _guard_size(site, narrow, dim, shape)


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
