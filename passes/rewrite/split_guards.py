"""Guard that a view parts channels at other sizes as at the example's."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxprune.arguments.guards import guard_equal
from fxprune.node_facts import Codes, Shape
from fxprune.pytorch.call_targets import FLATTENS, VIEWS, canonical_call, positional, runs_own_code
from fxprune.pytorch.view_factors import ViewFactor, view_factors

from .axes import is_constant
from .position_guards import axes_before, guard_inputs, is_open, is_read, length_in, reads_batch
from .site import WIDE, Site, product

_IN_ORDER = frozenset({
    "relu", "gelu", "silu", "sigmoid", "tanh", "mul", "truediv", "add", "sub", "neg", "clone", "contiguous", "dropout",
    "flatten", "identity", "relu6", "leaky_relu", "leakyrelu", "elu", "selu", "celu", "mish", "softplus", "hardswish",
    "hardsigmoid", "hardtanh", "logsigmoid", "clamp", "pow", "exp", "log", "sqrt", "abs",
})  # fmt: skip


def guard_split(site: Site, asked: Mapping[int, Any], made: fx.Node) -> dict[int, int]:
    """Guard that a view parts channels, and moves positions across them, as in the example.

    A view of a flattened tensor is compared with the axes before that. Nothing is guarded that no input can change.

    Returns:
        The narrow lengths that -1 takes at any input, by axis.
    """
    if is_constant(site.node):
        return {}
    base, shape = _before_flattening(site)
    _guard_sides(site, base, shape, asked, made)
    left_over = _left_over(site, shape, asked)
    _guard_cuts(site, base, shape, {**asked, **left_over}, made)
    return left_over


def _guard_sides(site: Site, base: fx.Node, shape: Shape, asked: Mapping[int, Any], made: fx.Node) -> None:
    """Guard that no position moves across channels where the numbers of both agree by chance.

    ``[b, c, h, w] -> [b, h, c, w]`` keeps channels together at ``h = 1`` only.
    """
    before, after = shape.sizes, site.value.sizes
    for left, right in view_factors(before, after):
        old, new = [d for d in left if before[d] > 1], [d for d in right if after[d] > 1]
        if not old or not new or all(site.value.axes[d] is None for d in new):
            continue
        front = range(old[0]), range(new[0])
        behind = range(old[-1] + 1, len(before)), range(new[-1] + 1, len(after))
        is_left_over = any(is_open(asked.get(d)) for d in new)
        moved = [before[d] for d in behind[0]].count(1) != [after[d] for d in behind[1]].count(1)
        for old_side, new_side in (front, behind):
            if old_side is behind[0] and not (is_left_over or moved or len(old) + len(new) > 2):
                continue
            if _stay(base, site, asked, old_side, new_side) or _is_implied(site, shape, asked, old_side, new_side):
                continue
            found = product(site.graph, [_size(site, base, d) for d in old_side])
            wanted = product(site.graph, [_asked(site, asked, made, d) for d in new_side])
            if not isinstance(found, int) or found != wanted:
                equal = site.call(operator.eq, found, wanted)
                site.call(guard_equal, equal, True, f"{axes_before(site, old_side)} is what it asks for")


def _before_flattening(site: Site) -> tuple[fx.Node, Shape]:
    """Return the tensor behind a view and its wide shape; of a flattened one, before that."""
    nodes, first = site.coupling.nodes, positional(site.node.target, site.node.args, site.node.kwargs)[0][0]
    wide: fx.Node = first
    while site.orders.mixed(wide):
        given = [node for node in wide.all_input_nodes if isinstance(nodes[node.name].value, Shape)]
        sizes = [math.prod(nodes[node.name].value.sizes) for node in (wide, *given)]
        if len(given) != 1 or sizes[0] != sizes[1] or not _keeps_numbers(site, wide):
            return site.args[0], site.wide_of(0)
        (wide,) = given
    if wide is first:
        return site.args[0], site.wide_of(0)
    made = next(node for node in reversed(site.graph.nodes) if node.meta.get(WIDE) == wide.name)
    shape: Shape = nodes[wide.name].value
    return made, replace(shape, varying=())


def _keeps_order(site: Site, node: fx.Node) -> bool:
    """Tell whether a call returns the numbers of its input in order, each changed by itself."""
    target: Any = node.target
    if node.op == "call_module":  # whose name may be that of a method
        target = type(site.coupling.graph_module.get_submodule(target))
    elif canonical_call(target) in VIEWS | FLATTENS:
        return True
    return str(getattr(target, "__name__", target)).lower() in _IN_ORDER


def _keeps_numbers(site: Site, node: fx.Node) -> bool:
    """Tell whether a call keeps what it reads in order, but for axes of length 1."""
    sources = site.orders.sources
    return _keeps_order(site, node) or sources.keeps_places(node) or sources.name(node) in ("unsqueeze", "squeeze")


def _is_narrower(site: Site, value: Any) -> bool:
    """Tell whether a tensor loses channels; any other is that of the wide network."""
    axes = value.axes if isinstance(value, Shape) else ()
    return any(codes is not None and not site.plan.kept[codes].all() for codes in axes)


def read_from_behind(site: Site) -> bool:
    """Tell whether nothing behind a call counts axes from the front, of which one may be gone."""
    nodes, module = site.coupling.nodes, site.coupling.graph_module
    if "squeeze_" in str(site.node.target).split("."):
        return False  # what else reads the tensor is not known
    loose = {site.node}
    for node in module.graph.nodes:
        given = [each for each in node.all_input_nodes if isinstance(nodes[each.name].value, Shape)]
        if node.op == "output" or loose.isdisjoint(node.all_input_nodes):
            continue
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            if runs_own_code(node) or not (type(layer) in (nn.Linear, nn.LayerNorm) or _keeps_order(site, node)):
                return False
            if _is_narrower(site, nodes[node.name].value):
                loose.add(node)
        elif canonical_call(node.target) in VIEWS - {"unflatten", torch.unflatten}:
            if not loose.isdisjoint(node.all_input_nodes[1:]) or node.args[:1] != (given[0],):
                return False
        elif _keeps_order(site, node) and canonical_call(node.target) not in VIEWS | FLATTENS:
            rank = len(nodes[node.name].value.sizes)
            if all(each in loose or len(nodes[each.name].value.sizes) < rank for each in given):
                loose.add(node)
        else:
            return False
    return True


def _stay(base: fx.Node, site: Site, asked: Mapping[int, Any], before: range, after: range) -> bool:
    """Tell whether a view leaves axes as they are, or states their lengths again."""
    shift, same = before.start - after.start, base is site.args[0]
    return len(before) == len(after) and all(
        same if d not in asked else _reads(site, asked[d], base, d + shift) for d in after
    )


def _is_implied(site: Site, shape: Shape, asked: Mapping[int, Any], before: range, after: range) -> bool:
    """Tell whether a side has as many positions at any input: all others are fixed channels."""
    old = [_fixed_length(site, shape, d) for d in range(len(shape.sizes)) if d not in before]
    new = [_stated_length(site, asked, d) for d in range(len(site.value.sizes)) if d not in after]
    return None not in old and None not in new and math.prod(filter(None, old)) == math.prod(filter(None, new))


def _left_over(site: Site, shape: Shape, asked: Mapping[int, Any]) -> dict[int, int]:
    """Return what is left for -1 where a view parts fixed channels, and states all other axes."""
    found: dict[int, int] = {}
    for left, right in view_factors(shape.sizes, site.value.sizes):
        fixed = [_fixed_length(site, shape, d) for d in left]
        others = [_stated_length(site, asked, d) for d in right]
        opened = [d for d in right if is_open(asked.get(d)) and site.value.sizes[d] > 1]
        if None not in fixed and len(opened) == others.count(None) == 1 and len(right) > 1:
            length = math.prod(filter(None, fixed)) // math.prod(filter(None, others))
            found |= {d: length for d in opened if length == length_in(site, site.value, d)}
    return found


def _fixed_length(site: Site, shape: Shape, dim: int) -> int | None:
    """Return the narrow length of an axis of channels; None where the input decides it."""
    return None if shape.axes[dim] is None or dim in shape.varying else length_in(site, shape, dim)


def _stated_length(site: Site, asked: Mapping[int, Any], dim: int) -> int | None:
    """Return the narrow length that a view states as a number; None for any other."""
    size = asked.get(dim, -1)
    return length_in(site, site.value, dim) if isinstance(size, int) and size != -1 else None


def _reads(site: Site, size: Any, tensor: fx.Node, dim: int) -> bool:
    """Tell whether a size is the length of an axis of a tensor, if need be before linear layers."""
    if not isinstance(size, fx.Node) or size.target != "size" or size.args[1:] != (dim,):
        return False
    while tensor is not size.args[0]:
        layer = site.coupling.graph_module.get_submodule(str(tensor.target)) if tensor.op == "call_module" else None
        source = tensor.args[0] if isinstance(layer, (nn.Linear, nn.LayerNorm)) else None
        wide = site.coupling.nodes.get(tensor.meta.get(WIDE, ""))
        if not isinstance(source, fx.Node) or wide is None or dim >= len(wide.value.sizes) - 1:
            return False
        tensor = source
    return True


def _asked(site: Site, asked: Mapping[int, Any], made: fx.Node, dim: int) -> Any:
    """Return the narrow length of an axis: a number where the view states it."""
    size, stated = asked.get(dim, -1), _stated_length(site, asked, dim)
    if stated is not None:
        return stated
    return _size(site, made, dim) if is_open(size) or site.value.axes[dim] is not None else size


def _size(site: Site, tensor: fx.Node, dim: int) -> fx.Node:
    return site.graph.create_node("call_method", "size", (tensor, dim), {}, f"{site.node.name}_size")


def _guard_cuts(site: Site, base: fx.Node, shape: Shape, asked: Mapping[int, Any], made: fx.Node) -> None:
    """Guard where a view parts channels, and the positions beside them.

    ``[c, h] -> [c * h // 4, 4]`` parts no channel if 4 divides h, ``[c, h] -> [h, c]`` if c and h are equal.
    """
    for left, right in view_factors(shape.sizes, site.value.sizes):
        on = [d for d in left if shape.axes[d] is not None]
        if len(right) == 1 or all(site.value.axes[d] is None for d in right):
            continue
        if base is site.args[0] and not {*left}.isdisjoint(shape.varying) and not _is_told(site, asked, (left, right)):
            guard_inputs(site)
        codes = shape.axes[on[0]] if len(on) == 1 else None
        if codes is None or on[0] in shape.varying or _repeats(codes):
            flat = all(d in shape.varying for d in left if shape.sizes[d] > 1)
            _guard_lengths(site, asked, right, flat=flat)
        if codes is None or on[0] in shape.varying:
            continue
        behind = [d for d in left if d > on[0]]
        was = math.prod(shape.sizes[d] for d in behind)
        block, new = shape.sizes[on[0]] * was, next(d for d in right if site.value.axes[d] is not None)
        inner = math.prod(site.value.sizes[d] for d in right if d > new)
        if inner < was and inner * site.value.sizes[new] > block and is_read(site, site.node, site.value.sizes[new]):
            # `[b, c, h] -> [1, b c h]` has channels at other places where h is larger and b smaller.
            now = product(site.graph, [_size(site, base, d) for d in behind])
            site.call(guard_equal, now, was, axes_before(site, behind))
        for at in range(1, len(right)):
            step = math.prod(site.value.sizes[d] for d in right[at:])
            found = product(site.graph, [_asked(site, asked, made, d) for d in right[at:]])
            now = product(site.graph, [_size(site, base, d) for d in behind])
            narrow = math.prod(length_in(site, site.value, d) for d in right[at:])
            equal: Any = True
            if step > block and step % block == 0:  # in front of all channels
                channels = product(site.graph, [length_in(site, shape, on[0]), now])
                equal = site.call(operator.eq, site.call(operator.mod, found, channels), 0)
            elif step < was and was % step == 0:  # behind each channel
                equal = site.call(operator.eq, site.call(operator.mod, now, found), 0) if step > 1 else True
            else:
                pair = product(site.graph, [found, was]), product(site.graph, [now, narrow])
                equal = all(isinstance(each, int) for each in pair) or site.call(operator.eq, *pair)
            if equal is not True:
                site.call(guard_equal, equal, True, f"whether `{site.node.name}` parts channels as in the example")


def _is_told(site: Site, asked: Mapping[int, Any], factor: ViewFactor) -> bool:
    """Tell whether a view parts an axis with positions beside channels alike for all inputs.

    It does if its axes were parted before, or if the view states all channels at the side where they are.
    """
    left, right = factor
    given = positional(site.node.target, site.node.args, site.node.kwargs)[0][0]
    orders = [site.orders.of(given, d) for d in left if not site.orders.sources.is_one(given, d)]
    if all(order is not None and len(order) == 1 for order in orders):
        return True
    if None in orders:
        return False
    order = tuple(part for each in orders for part in each or ())
    side, sizes = site.orders.side(order), site.value.sizes
    parts = [part for part in order if part.kind == "channels"]
    channels = math.prod(part.size for part in parts)
    ends = [right[:at] if side == "front" else right[at:] for at in range(len(right) + 1)]
    on = next((dims for dims in ends if dims and math.prod(sizes[d] for d in dims) == channels), ())
    are_stated = all(isinstance(asked.get(d), int) and not is_open(asked[d]) for d in on)
    others = [asked.get(d) for d in right if d not in on]
    is_batch = len(order) - len(parts) == len(others) == 1 and reads_batch(site, others[0])
    return bool(side and on) and (are_stated or is_batch)


def _guard_lengths(site: Site, asked: Mapping[int, Any], right: Sequence[int], *, flat: bool) -> None:
    """Guard computed lengths of axes with channels, where several lie in one factor of a view."""
    on = [d for d in right if site.value.axes[d] is not None]
    computed = [d for d in right if isinstance(asked.get(d), fx.Node)]
    stated = [d for d in on if _repeats(site.value.axes[d]) and not is_open(asked.get(d))]
    if flat and stated and not all(reads_batch(site, asked[d]) for d in computed):
        guard_inputs(site)
    for d in on:
        if d not in computed:
            continue
        codes, length, where = site.value.axes[d], asked[d], f"size {d} of `{site.node.name}`"
        once = len(np.unique(codes))
        repeats = once < len(codes) and len(codes) % once == 0
        if repeats:
            length, where = site.call(operator.mod, length, once), f"what channels leave of {where}"
        site.call(guard_equal, length, 0 if repeats else len(codes), where)


def _repeats(codes: Codes) -> bool:
    """Tell whether an axis holds channels several times, or several that are tied."""
    return len(np.unique(codes)) < len(codes)
