"""Rewrite calls that state sizes: views, splits, padding, new tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.arguments.guards import guard_equal
from fxprune.node_facts import Codes, Shape
from fxprune.pytorch import call_targets
from fxprune.pytorch.torch_private import OpOverload
from fxprune.pytorch.view_factors import view_factors

from .indexing import picked
from .places import is_open, length_in
from .site import Site, standing_for
from .squeezes import read_from_behind


def resized(site: Site) -> fx.Node | None:
    """view, reshape, flatten, expand, unflatten: an axis of channels counts the kept ones."""
    out = site.value
    if not isinstance(out, Shape) or not out.labelled:
        return None
    if site.kind in call_targets.FLATTENS:
        return None
    if site.kind in ("unflatten", torch.unflatten):
        return _unflattened(site, out)
    flat = len(site.args) > 1 and not isinstance(site.args[1], (tuple, list))
    sizes = list(site.args[1:] if flat else site.parameter(1, "shape", site.kwargs.get("size")))
    if len(sizes) == 1 < len(out.sizes):  # a list that the graph computes, as `[b, c] + [1] * (x.ndim - 2)`
        sizes = [site.call(operator.getitem, sizes[0], dim) for dim in range(len(out.sizes))]
    asked = dict(enumerate(sizes))
    for dim, codes in enumerate(out.axes):
        if codes is not None and not is_open(sizes[dim]):
            sizes[dim] = _length(site, dim, codes, sizes)
    given = (site.args[0], *sizes) if flat else (site.args[0], tuple(sizes))
    return _guarded(site, asked, lambda: site.copy(given, {}))


def _guarded(site: Site, asked: dict[int, Any], make: Callable[[], fx.Node]) -> fx.Node:
    """Make a view, and guard the sizes that agree with channels at the analysed input only."""
    wide = site.coupling.nodes[site.node.name]
    where = {dim: f"size {dim} of `{site.node.name}`" for dim in wide.guarded}
    for dim in where:
        if isinstance(asked.get(dim), fx.Node):
            site.call(guard_equal, asked.get(dim), wide.value.sizes[dim], where[dim])
    made = make()
    for dim in where:
        length = length_in(site, wide.value, dim)
        if is_open(asked.get(dim)) and site.orders.lengths.stated(site.node, dim).powers:
            size = site.graph.create_node("call_method", "size", (made, dim), {}, f"{site.node.name}_size")
            site.call(guard_equal, size, length, where[dim])
    return made


def _length(site: Site, dim: int, codes: Codes, sizes: list[Any]) -> Any:
    """Return the new size of an axis: a literal, or a quotient if the model computes the size.

    An axis may hold batch or space beside channels. A view maps a run of input axes to a run of new axes: the size of
    one new axis is the product of the input axes, divided by the other new axes of the run.
    """
    before, after = site.wide_of(0), site.value
    kept = int(site.kept(codes).sum())
    if isinstance(sizes[dim], int):
        return kept
    # Sizes that the model computes are those of the wide network; batch and space repeat all channels.
    share = Fraction(kept, len(codes))
    if site.kind in call_targets.EXPANSIONS:
        return _kept_of(site, codes, sizes[dim])
    inside, new = next(run for run in view_factors(before.sizes, after.sizes) if dim in run[1])
    others = [sizes[d] for d in new if d != dim and after.sizes[d] > 1]
    if all(before.axes[d] is not None for d in inside if before.sizes[d] > 1) or any(map(is_open, others)):
        return site.share_of(sizes[dim], share)
    total: Any = site.length(inside[0])
    for d in inside[1:]:
        total = site.call(operator.mul, total, site.length(d))
    for size in others:
        total = site.call(operator.floordiv, total, size)
    as_asked = site.call(operator.eq, site.share_of(sizes[dim], share), total)
    site.call(guard_equal, as_asked, True, f"size {dim} of `{site.node.name}` is what is left for it")
    return total


def _unflattened(site: Site, out: Shape) -> fx.Node:
    rank = len(site.shape_of(0).sizes)
    dim, sizes = site.parameter(1, "dim") % rank, list(site.parameter(2, "sizes"))
    for at in range(len(sizes)):
        codes = out.axes[dim + at]
        if codes is not None and not is_open(sizes[at]):
            kept = int(site.kept(codes).sum())
            computed = not isinstance(sizes[at], int)
            sizes[at] = site.share_of(sizes[at], Fraction(kept, len(codes))) if computed else kept
    asked = dict(enumerate(site.parameter(2, "sizes"), dim))
    return _guarded(site, asked, lambda: site.copy((site.args[0], dim, tuple(sizes)), {}))


def squeezed(site: Site) -> fx.Node | None:
    """Squeeze: axes of channels stay, since one may be left; others go as in the example."""
    on_x = site.shape_of(0)
    if not on_x.labelled:
        return None
    dims, rank = site.parameter(1, "dim", range(len(on_x.sizes))), len(on_x.sizes)
    asked = [dim % rank for dim in ([dims] if isinstance(dims, int) else dims)]
    gone = [dim for dim in asked if on_x.axes[dim] is None]
    first = min(dim for dim, codes in enumerate(on_x.axes) if codes is not None)
    for dim in site.coupling.nodes[site.node.name].squeezed:
        is_one = on_x.sizes[dim] == 1
        if is_one or dim > first or not read_from_behind(site):
            found = site.call(operator.eq, site.length(dim), 1)
            site.call(guard_equal, found, is_one, f"size {dim} == 1 before `{site.node}`")
            gone = [each for each in gone if is_one or each != dim]  # it stays, and no exporter need ask
    if not gone:
        return standing_for(site.node, site.call(operator.getitem, site.args[0], ...))
    target = torch.squeeze if isinstance(site.node.target, OpOverload) else None
    return site.copy((site.args[0], tuple(gone)), {}, target)


def pieces(site: Site) -> fx.Node | None:
    """split, chunk: the length of a piece counts its kept positions."""
    on_x = site.shape_of(0)
    dim = site.parameter(2, "dim", 0)
    if on_x.axes[dim] is None:
        return None
    site.guard_length(dim % len(on_x.sizes), on_x)
    lengths = [
        int(site.kept(piece.axes[dim]).sum()) if piece.axes[dim] is not None else piece.sizes[dim]
        for piece in site.value
    ]
    made = site.graph.create_node("call_function", torch.split, (site.args[0], lengths, dim), {}, site.node.name)
    return standing_for(site.node, made)


def padded(site: Site) -> fx.Node | None:
    """pad: the padding before and after counts the constant channels that are kept."""
    narrow_in, narrow_out = site.shape_of(0), site.value
    on_x, out = site.wide_of(0), site.coupling.nodes[site.node.name].value
    amounts = list(site.parameter(1, "pad"))
    for i in range(len(amounts) // 2):
        dim = len(on_x.sizes) - 1 - i
        inner, outer = on_x.axes[dim], out.axes[dim]
        if inner is None or outer is None or (narrow_in.axes[dim] is None and narrow_out.axes[dim] is None):
            continue
        before, after = map(site.number, amounts[2 * i : 2 * i + 2])
        if before < 0 or after < 0:
            site.guard_length(dim, narrow_in)
        kept_in, kept_out = site.kept(inner), site.kept(outer)
        for side, amount in enumerate((before, after)):
            gone = kept_in[: max(-amount, 0)] if side == 0 else kept_in[len(kept_in) - max(-amount, 0) :]
            come = kept_out[: max(amount, 0)] if side == 0 else kept_out[len(kept_out) - max(amount, 0) :]
            amounts[2 * i + side] = int(come.sum()) - int(gone.sum())
    kwargs = {key: value for key, value in site.kwargs.items() if key != "pad"}
    return site.copy((site.args[0], tuple(amounts), *site.args[2:]), kwargs)


def like_another(site: Site) -> fx.Node | None:
    """expand_as, view_as: an axis has the width of what it holds, not that of its example."""
    like, wide = site.wide_of(1), site.coupling.nodes[site.node.name].value
    same = all(length_in(site, wide, dim) == length_in(site, like, dim) for dim in range(len(wide.sizes)))
    if same and (site.kind != "expand_as" or not site.value.labelled):
        return None
    other = site.args[1]

    def size(dim: int) -> Any:
        codes = wide.axes[dim]
        if like.axes[dim] is not None or (codes is not None and site.kind == "expand_as"):
            return length_in(site, wide, dim)
        length = site.graph.create_node("call_method", "size", (other, dim), {}, f"{site.node.name}_size")
        return length if codes is None else _kept_of(site, codes, length)

    sizes = map(size, range(len(wide.sizes)))
    stated = str(site.kind).removesuffix("_as")
    made = site.graph.create_node("call_method", stated, (site.args[0], *sizes), {}, site.node.name)
    return standing_for(site.node, made)


def repeated(site: Site) -> fx.Node | None:
    """repeat, tile: an axis is repeated once for each kept channel that the repetitions met."""
    on_x, out = site.shape_of(0), site.value
    given = site.parameter(1, "dims", site.kwargs.get("repeats"))
    counts = list(given) if isinstance(given, (tuple, list)) else list(site.args[1:])
    counts = [*[1] * (len(on_x.sizes) - len(counts)), *counts]
    lead = len(counts) - len(on_x.sizes)
    for dim, codes in enumerate(out.axes):
        if codes is None or (dim >= lead and on_x.axes[dim - lead] is not None):
            continue
        each = codes[:: on_x.sizes[dim - lead]] if dim >= lead else codes
        counts[dim] = _kept_of(site, each, counts[dim])
    return site.copy((site.args[0], tuple(counts)), {})


def interleaved(site: Site) -> fx.Node | None:
    """repeat_interleave: each position is repeated once for each kept channel that they met."""
    if site.coupling.nodes[site.node.name].places is not None:
        return picked(site)
    on_x, out = site.shape_of(0), site.value
    dim = site.parameter(2, "dim")
    codes = out.axes[0 if dim is None else dim]
    if codes is None or (on_x.labelled if dim is None else on_x.axes[dim] is not None):
        return None
    each = codes[: len(codes) // (math.prod(on_x.sizes) if dim is None else on_x.sizes[dim])]
    return site.copy((site.args[0], _kept_of(site, each, site.parameter(1, "repeats")), dim), {})


def joined(site: Site) -> fx.Node | None:
    """cat: one map is joined with itself once for each kept channel that the repetitions met."""
    out, maps, given = site.value, site.parameter(0, "tensors"), site.parameter(1, "dim", 0)
    if not isinstance(out, Shape) or not isinstance(maps, (tuple, list)) or any(x is not maps[0] for x in maps):
        return None
    dim = given % len(out.sizes)
    if out.axes[dim] is None or out.sizes[dim] != len(maps):
        return None
    return site.copy((list(maps[: int(site.kept(out.axes[dim]).sum())]), dim), {})


def created(site: Site) -> fx.Node | None:
    """zeros, ones, full and their methods: an axis is as wide as the channels that it met."""
    out, first = site.value, int(isinstance(site.kind, str))
    if not isinstance(out, Shape) or not out.labelled:
        return None
    given = site.parameter(first, "size")
    flat = not isinstance(given, (tuple, list))
    sizes = [
        size if codes is None else _kept_of(site, codes, size)
        for size, codes in zip(site.args[first:] if flat else given, out.axes, strict=True)
    ]
    rest = () if flat else site.args[first + 1 :]
    kwargs = {key: value for key, value in site.kwargs.items() if key != "size"}
    return site.copy((*site.args[:first], tuple(sizes), *rest), kwargs)


def _kept_of(site: Site, codes: Codes, size: Any) -> Any:
    """Return how many channels stay of a size that met them; a computed one is as it was here.

    Unless each channel is there several times, as in flattened images, whose number changes with their size.
    """
    kept = int(site.kept(codes).sum())
    if isinstance(size, int):
        return kept
    if len(np.unique(codes)) < len(codes):
        return site.share_of(size, Fraction(kept, len(codes)))
    site.call(guard_equal, size, len(codes), f"a size in `{site.node.name}`")
    return kept
