"""Lengths of narrow axes, whether something names places in one, and guards of all inputs."""

from __future__ import annotations

import itertools
from typing import Any

from torch import fx

from fxprune.arguments.guards import guard_equal
from fxprune.node_facts import Shape
from fxprune.pytorch.call_targets import INDICES, PADS, PUTS, SLICES, SPLITS, call_kind
from fxprune.pytorch.torch_private import pytree

from .axes import CUTS, is_constant
from .site import Site

# Calls that name places along an axis.
_PLACES = SLICES | INDICES | SPLITS | PADS | PUTS
_OF_INPUTS = "fxprune_of_inputs"  # marks the guards of all inputs, which one graph needs once


def is_open(size: Any) -> bool:
    """A size of -1 adapts by itself."""
    return bool(size == -1)


def length_in(site: Site, shape: Shape, dim: int) -> int:
    """Return the narrow length of an axis at the example's sizes."""
    codes = shape.axes[dim]
    return shape.sizes[dim] if codes is None else int(site.kept(codes).sum())


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
