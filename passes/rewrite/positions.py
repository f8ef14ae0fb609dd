"""Guard positions that a view states beside channels, where others may take the rest."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import fx, nn

from fxprune.arguments.guards import guard_equal
from fxprune.node_facts import Codes, Shape
from fxprune.pytorch.rewritable import FLATTENS, INDICES, PADS, SLICES, SPLITS, VIEWS, canonical_call, positional
from fxprune.pytorch.view_factors import view_factors

from .site import WIDE, Site, product

_IN_ORDER = frozenset({
    "relu", "gelu", "silu", "sigmoid", "tanh", "mul", "truediv", "add", "sub", "neg", "clone", "contiguous", "dropout",
    "flatten", "identity",
})  # fmt: skip


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
        others = [d for place, dims in enumerate(free) if place != at and takes[place] for d in dims]
        between = {d for a in free[at] for b in others for d in range(min(a, b), max(a, b) + 1)}
        if not any(narrow.axes[d] is not None for d in between):
            continue
        if stated[at]:
            _guard_length_of(site, free[at])
        else:
            found = product(graph, [site.length(d) for d in left])
            equal = site.call(operator.eq, found, product(graph, asked[at]))
            site.call(guard_equal, equal, True, f"{_axes(site, free[at])} is what it asks for")


def guard_sides(site: Site, asked: Mapping[int, Any], made: fx.Node) -> None:
    """Guard that no position moves across channels where the numbers of both agree by chance.

    ``[b, c, h, w] -> [b, h, c, w]`` keeps channels together at ``h = 1`` only. A view of a flattened tensor is compared
    with the axes before that.
    """
    base, shape = _unflattened(site)
    before, after = shape.sizes, site.value.sizes
    for left, right in view_factors(before, after):
        old, new = [d for d in left if before[d] > 1], [d for d in right if after[d] > 1]
        if not old or not new or all(site.value.axes[d] is None for d in new):
            continue
        front = range(old[0]), range(new[0])
        behind = range(old[-1] + 1, len(before)), range(new[-1] + 1, len(after))
        splits = len(new) > 1 and any(is_open(asked.get(d)) for d in new)
        moved = [before[d] for d in behind[0]].count(1) != [after[d] for d in behind[1]].count(1)
        for old_side, new_side in (front, behind):
            if old_side is behind[0] and not (splits or moved or len(old) + len(new) > 2):
                continue
            if _stay(base, site, asked, old_side, new_side):
                continue
            found = product(site.graph, [_size(site, base, d) for d in old_side])
            wanted = product(site.graph, [_asked(site, asked, made, d) for d in new_side])
            if not isinstance(found, int) or found != wanted:
                equal = site.call(operator.eq, found, wanted)
                site.call(guard_equal, equal, True, f"{_axes(site, old_side)} is what it asks for")


def _unflattened(site: Site) -> tuple[fx.Node, Shape]:
    """Return the tensor behind a view and its wide shape; of a flattened one, before that."""
    nodes, first = site.coupling.nodes, positional(site.node.target, site.node.args, site.node.kwargs)[0][0]
    wide: fx.Node = first
    while nodes[wide.name].value.varying:
        given = [node for node in wide.all_input_nodes if isinstance(nodes[node.name].value, Shape)]
        sizes = [math.prod(nodes[node.name].value.sizes) for node in (wide, *given)]
        if len(given) != 1 or sizes[0] != sizes[1] or not _keeps_order(site, wide):
            return site.args[0], site.wide_of(0)
        (wide,) = given
    if wide is first:
        return site.args[0], site.wide_of(0)
    made = next(node for node in reversed(site.graph.nodes) if node.meta.get(WIDE) == wide.name)
    return made, nodes[wide.name].value


def _keeps_order(site: Site, node: fx.Node) -> bool:
    """Tell whether a call returns the numbers of its input in order, each changed by itself."""
    target: Any = node.target
    if node.op == "call_module":  # whose name may be that of a method
        target = type(site.coupling.graph_module.get_submodule(target))
    elif canonical_call(target) in VIEWS | FLATTENS:
        return True
    return str(getattr(target, "__name__", target)).lower() in _IN_ORDER


def _stay(base: fx.Node, site: Site, asked: Mapping[int, Any], before: range, after: range) -> bool:
    """Tell whether a view leaves axes as they are, or states their lengths again."""
    shift, same = before.start - after.start, base is site.args[0]
    return len(before) == len(after) and all(
        same if d not in asked else _reads(site, asked[d], base, d + shift) for d in after
    )


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
    size = asked.get(dim, -1)
    if isinstance(size, int) and size != -1:
        return _length_in(site, site.value, dim)
    return _size(site, made, dim) if is_open(size) or site.value.axes[dim] is not None else size


def _size(site: Site, tensor: fx.Node, dim: int) -> fx.Node:
    return site.graph.create_node("call_method", "size", (tensor, dim), {}, f"{site.node.name}_size")


def guard_parts(site: Site, asked: Mapping[int, Any], made: fx.Node) -> None:
    """Guard where a view parts channels, and the positions beside them.

    ``[c, h] -> [c * h // 4, 4]`` parts no channel if 4 divides h, ``[c, h] -> [h, c]`` if c and h are equal.
    """
    base, shape = _unflattened(site)
    for left, right in view_factors(shape.sizes, site.value.sizes):
        on = [d for d in left if shape.axes[d] is not None]
        if len(right) == 1 or all(site.value.axes[d] is None for d in right):
            continue
        codes = shape.axes[on[0]] if len(on) == 1 else None
        if codes is None or on[0] in shape.varying or _repeats(codes):
            _guard_lengths(site, asked, right)
            continue
        behind = [d for d in left if d > on[0]]
        block = shape.sizes[on[0]] * math.prod(shape.sizes[d] for d in behind)
        for at in range(1, len(right)):
            step = math.prod(site.value.sizes[d] for d in right[at:])
            found = product(site.graph, [_asked(site, asked, made, d) for d in right[at:]])
            now = product(site.graph, [_size(site, base, d) for d in behind])
            was, narrow = block // shape.sizes[on[0]], math.prod(_length_in(site, site.value, d) for d in right[at:])
            equal: Any = True
            if step > block and step % block == 0:  # in front of all channels
                whole = product(site.graph, [_length_in(site, shape, on[0]), now])
                equal = site.call(operator.eq, site.call(operator.mod, found, whole), 0)
            elif step < was and was % step == 0:  # behind each channel
                equal = site.call(operator.eq, site.call(operator.mod, now, found), 0) if step > 1 else True
            else:
                pair = product(site.graph, [found, was]), product(site.graph, [now, narrow])
                equal = all(isinstance(each, int) for each in pair) or site.call(operator.eq, *pair)
            if equal is not True:
                site.call(guard_equal, equal, True, f"whether `{site.node.name}` parts channels as in the example")


def _guard_lengths(site: Site, asked: Mapping[int, Any], right: Sequence[int]) -> None:
    """Guard computed lengths of axes with channels, where several lie in one factor of a view."""
    for d in right:
        codes = site.value.axes[d]
        if codes is None or not isinstance(asked.get(d), fx.Node):
            continue
        length, where = asked[d], f"size {d} of `{site.node.name}`"
        if _repeats(codes):
            length, where = site.call(operator.mod, length, len(np.unique(codes))), f"what channels leave of {where}"
        site.call(guard_equal, length, 0 if _repeats(codes) else len(codes), where)


def _repeats(codes: Codes) -> bool:
    """Tell whether an axis holds channels several times, or several that are tied."""
    return len(np.unique(codes)) < len(codes)


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
        if (front or mixed) and (behind or mixed) and _is_read(site, site.node, site.value.sizes[flat[0]]):
            for dims in filter(None, (front, behind)):
                _guard_length_of(site, dims)


def _is_read(site: Site, node: fx.Node, length: int) -> bool:
    """Tell whether an axis of channels beside positions meets a weight, or an index."""
    nodes, module = site.coupling.nodes, site.coupling.graph_module
    for user in node.users:
        value = nodes[user.name].value if user.op != "output" else None
        if not isinstance(value, Shape):
            continue
        owns = user.op == "call_module" and any(True for _ in module.get_submodule(str(user.target)).parameters())
        named = user.op != "call_module" and canonical_call(user.target) in SLICES | INDICES | SPLITS | PADS
        if owns or named or any(map(_is_constant, user.all_input_nodes)):
            return True
        if any(value.sizes[d] == length for d in value.varying) and _is_read(site, user, length):
            return True
    return False


def _is_constant(node: fx.Node) -> bool:
    return node.op == "get_attr" or (bool(node.all_input_nodes) and all(map(_is_constant, node.all_input_nodes)))


def guard_run(site: Site, left: Sequence[int], asked: Mapping[int, Any]) -> None:
    """Guard positions that -1 takes from beyond channels: ``[c, h * w] -> [-1, 64]``."""
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
    place, mixed = opened[0], bool({*front} & {*behind})
    if front and not (place < new[0] or place == new[0] == long[0]):
        _guard_share(site, front, {d: size for d, size in asked.items() if d < place}, mixed)
    if behind and not (place > new[-1] or place == new[-1] == long[-1]):
        _guard_share(site, behind, {d: size for d, size in asked.items() if d > place}, mixed)


def _guard_share(site: Site, dims: Sequence[int], asked: Mapping[int, Any], mixed: bool) -> None:
    """Guard how many times axes are what a view asks for; of a flat tensor, all inputs."""
    stated = all(isinstance(size, int) for size in asked.values())
    if stated and mixed:
        for node in site.graph.find_nodes(op="placeholder"):
            value = site.coupling.nodes[node.name].value
            for dim, size in enumerate(value.sizes if isinstance(value, Shape) else ()):
                found = site.graph.create_node("call_method", "size", (node, dim))
                site.call(guard_equal, found, size, f"size {dim} of `{node}`, flattened before `{site.node}`,")
    elif stated:
        _guard_length_of(site, dims)
    elif not mixed:  # what the model computes for a flat tensor counts its parts
        was = math.prod(_length_in(site, site.value, d) for d in asked)
        found = product(site.graph, [*(site.length(d) for d in dims), was])
        wanted = product(site.graph, [*asked.values(), math.prod(_length_in(site, site.wide_of(0), d) for d in dims)])
        site.call(guard_equal, site.call(operator.eq, found, wanted), True, f"{_axes(site, dims)} is what it asks for")


def _guard_length_of(site: Site, dims: Sequence[int]) -> None:
    wanted = math.prod(_length_in(site, site.wide_of(0), d) for d in dims)
    site.call(guard_equal, product(site.graph, [site.length(d) for d in dims]), wanted, _axes(site, dims))


def _length_in(site: Site, shape: Shape, dim: int) -> int:
    codes = shape.axes[dim]
    return shape.sizes[dim] if codes is None else int(site.kept(codes).sum())


def _axes(site: Site, dims: Sequence[int]) -> str:
    return f"the size of axes {', '.join(map(str, dims))} before `{site.node}`"
