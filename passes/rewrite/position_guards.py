"""Guard positions that a view states beside channels, where others may take the rest."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import fx

from fxprune.arguments.guards import guard_equal
from fxprune.node_facts import Shape
from fxprune.pytorch.call_targets import INDICES, PADS, PUTS, SLICES, SPLITS, canonical_call, runs_own_code
from fxprune.pytorch.torch_private import pytree
from fxprune.pytorch.view_factors import view_factors

from .axes import is_constant
from .site import Site, product

# Calls that name places along an axis.
_PLACES = SLICES | INDICES | SPLITS | PADS | PUTS
_OF_INPUTS = "fxprune_of_inputs"  # marks the guards of all inputs, which one graph needs once


def is_open(size: Any) -> bool:
    """A size of -1 adapts by itself."""
    return isinstance(size, int) and size == -1


def guard_positions(site: Site, sizes: list[Any]) -> None:
    """Guard how many positions a view asks for, if others may take what is left.

    With channels between these and those, a row may belong to two channels: images of 32 pixels do so in
    ``[b, c, h, w] -> [-1, c, 16]``.
    """
    wide, narrow, graph = site.wide_of(0), site.shape_of(0), site.graph
    runs = view_factors(wide.sizes, site.value.sizes)
    asked = [[sizes[d] for d in right] for _, right in runs]
    hidden = any(map(is_open, asked[0])) or not any(map(is_open, sizes))  # a batch of one in front of channels
    free = [[d for d in left if wide.axes[d] is None or d in wide.varying or (hidden and d == 0)] for left, _ in runs]
    stated = [all(isinstance(size, int) and size != -1 for size in each) for each in asked]
    takes = [is_stated or any(map(is_open, each)) for is_stated, each in zip(stated, asked, strict=True)]
    for at, (left, right) in enumerate(runs):
        guard_run(site, left, {d: sizes[d] for d in right})
        if any(map(is_open, asked[at])) or (not stated[at] and len(left) == len(right) == 1):
            continue
        others = [d for other, dims in enumerate(free) if other != at and takes[other] for d in dims]
        between = {d for a in free[at] for b in others for d in range(min(a, b), max(a, b) + 1)}
        if not any(narrow.axes[d] is not None for d in between):
            continue
        if stated[at]:
            _guard_length_of(site, free[at])
        else:
            found = product(graph, [site.length(d) for d in left])
            equal = site.call(operator.eq, found, product(graph, asked[at]))
            site.call(guard_equal, equal, True, f"{axes_before(site, free[at])} is what it asks for")


def guard_flat(site: Site) -> None:
    """Guard positions on both sides of channels, if one axis takes all and a weight reads it.

    ``[b, c, h, w] -> [b * c * h * w]`` has the same length for two images of 4 x 4 pixels and for eight of 2 x 2.
    """
    wide = site.wide_of(0)
    for left, right in view_factors(wide.sizes, site.value.sizes):
        on = [d for d in left if wide.axes[d] is not None]
        flat = [d for d in right if site.value.axes[d] is not None]
        if len(left) == 1 or not on or not flat or [d for d in right if site.value.sizes[d] > 1] != flat[:1]:
            continue
        front = [d for d in left if d < on[0]]
        behind = [d for d in left if d > on[0] and (wide.axes[d] is None or d in wide.varying)]
        mixed = on[0] in wide.varying
        if (front or mixed) and (behind or mixed) and is_read(site, site.node, site.value.sizes[flat[0]]):
            for dims in filter(None, (front, behind)):
                _guard_length_of(site, dims)


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
    nodes, module = site.coupling.nodes, site.coupling.graph_module
    owns = user.op == "call_module" and any(True for _ in module.get_submodule(str(user.target)).parameters())
    named = of_tensor and user.op != "call_module" and canonical_call(user.target) in _PLACES
    constants = [nodes[each.name].value for each in user.all_input_nodes if is_constant(each)]
    return owns or named or any(_may_meet(each, length) for each in constants)


def _may_meet(constant: Any, length: int) -> bool:
    """Tell whether a constant may have the axis: a vector has none of another length."""
    return not isinstance(constant, Shape) or len(constant.sizes) != 1 or constant.sizes[0] == length


def guard_run(site: Site, left: Sequence[int], asked: Mapping[int, Any]) -> None:
    """Guard positions that -1 takes from beyond channels: ``[c, h * w] -> [-1, 64]``."""
    if is_constant(site.node.all_input_nodes[0]):  # a parameter is as long at any input
        return
    wide, narrow = site.wide_of(0), site.shape_of(0)
    old = [d for d in left if narrow.axes[d] is not None]
    new = [d for d in asked if site.value.axes[d] is not None]
    long = [d for d, size in asked.items() if size != 1]
    opened = [d for d, size in asked.items() if is_open(size)]
    if not old or not new or not (opened or all(isinstance(size, int) for size in asked.values())):
        return
    front = [d for d in left if d < old[-1] and wide.axes[d] is None]
    behind = [d for d in left if d > old[0] and wide.axes[d] is None]
    for d in left:
        codes = wide.axes[d]
        if codes is None or (d and d not in wide.varying):
            continue
        blocks = 1 + np.count_nonzero(np.diff(codes))
        front += [d] if d == 0 or blocks > len(np.unique(codes)) else []
        behind += [d] if blocks < len(codes) else []
    if not opened:
        for dims in (front, behind) if front and behind else ():
            _guard_length_of(site, dims)
        return
    first_open, mixed = opened[0], bool({*front} & {*behind})
    if front and not (first_open < new[0] or first_open == new[0] == long[0]):
        _guard_share(site, front, {d: size for d, size in asked.items() if d < first_open}, mixed)
    if behind and not (first_open > new[-1] or first_open == new[-1] == long[-1]):
        _guard_share(site, behind, {d: size for d, size in asked.items() if d > first_open}, mixed)


def _guard_share(site: Site, dims: Sequence[int], asked: Mapping[int, Any], mixed: bool) -> None:
    """Guard how many times axes are what a view asks for; of a flat tensor, all inputs."""
    stated = all(isinstance(size, int) for size in asked.values())
    if stated and mixed:
        guard_inputs(site)
    elif stated:
        _guard_length_of(site, dims)
    elif not mixed:  # what the model computes for a flat tensor counts its axes
        was = math.prod(length_in(site, site.value, d) for d in asked)
        found = product(site.graph, [*(site.length(d) for d in dims), was])
        wanted = product(site.graph, [*asked.values(), math.prod(length_in(site, site.wide_of(0), d) for d in dims)])
        site.call(
            guard_equal, site.call(operator.eq, found, wanted), True, f"{axes_before(site, dims)} is what it asks for"
        )


def guard_inputs(site: Site) -> None:
    """Guard the sizes of all inputs, where a tensor was flattened in a way that is not known."""
    if any(node.meta.get(_OF_INPUTS) for node in site.graph.find_nodes(op="call_function", target=guard_equal)):
        return
    for node in site.graph.find_nodes(op="placeholder"):
        value = site.coupling.nodes[node.name].value
        for dim, size in enumerate(value.sizes if isinstance(value, Shape) else ()):
            found = site.graph.create_node("call_method", "size", (node, dim))
            guard = site.call(guard_equal, found, size, f"size {dim} of `{node}`, flattened before `{site.node}`,")
            guard.meta[_OF_INPUTS] = True


def reads_batch(site: Site, size: Any) -> bool:
    """Tell whether a size is the batch of the only input, if need be read behind layers."""
    inputs = [node for node in site.graph.find_nodes(op="placeholder") if _is_tensor(site, node)]
    tensor = size.args[0] if isinstance(size, fx.Node) and size.target == "size" and size.args[1:] == (0,) else None
    while isinstance(tensor, fx.Node) and tensor.op == "call_module":
        layer = site.coupling.graph_module.get_submodule(str(tensor.target))
        tensor = tensor.args[0] if next(layer.parameters(), None) is not None and not runs_own_code(tensor) else None
    return inputs == [tensor]


def _is_tensor(site: Site, node: fx.Node) -> bool:
    return isinstance(site.coupling.nodes[node.name].value, Shape)


def _guard_length_of(site: Site, dims: Sequence[int]) -> None:
    wanted = math.prod(length_in(site, site.wide_of(0), d) for d in dims)
    site.call(guard_equal, product(site.graph, [site.length(d) for d in dims]), wanted, axes_before(site, dims))


def length_in(site: Site, shape: Shape, dim: int) -> int:
    """Return the narrow length of an axis at the example's sizes."""
    codes = shape.axes[dim]
    return shape.sizes[dim] if codes is None else int(site.kept(codes).sum())


def axes_before(site: Site, dims: Sequence[int]) -> str:
    """Name axes of what enters a call, for the message of a guard."""
    return f"the size of axes {', '.join(map(str, dims))} before `{site.node}`"
