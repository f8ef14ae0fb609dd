"""Views: merged axes repeat a channel; a split axis carries channels on one new axis only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from fxprune.pytorch.view_factors import ones_beside, view_factors

from ..call import Call, Rule
from ..channels import Axes, Ids
from ..operation import unlabelled
from .numbers import needs_number
from .registry import rule
from .uniformity import repeated


class ViewedAxis(NamedTuple):
    """An axis that is viewed: its ids, and whether all inputs have it as long as here."""

    size: int
    ids: Ids | None
    fixed: bool


def viewed(call: Call, _: Rule) -> list[Axes]:
    """Of axes that wait, those that stay alone or merge with others go on waiting."""
    x, out, label = call.args[0], call.out, call.label(call.args[0])
    axes: list[Ids | None] = [None] * out.dim()
    fixed = call.fixed(x)
    for left, right in view_factors(x.shape, out.shape) if x.numel() else ():
        before = [ViewedAxis(x.shape[dim], label.waiting(dim), fixed[dim]) for dim in left if x.shape[dim] > 1]
        after = [dim for dim in right if out.shape[dim] > 1]
        if len(after) == 1 and all(label.axes[dim] is None for dim in left):
            axes[after[0]] = merged(call, before)[0]
        else:
            call.freeze("an expanded axis is viewed otherwise", *(axis.ids for axis in before))
    return [tuple(axes)]


@rule(
    "view.default", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", keeps_parameters=True,
    uniform=viewed,
)  # fmt: skip
def view(call: Call) -> Axes:
    """A view has the same elements in the same order with other sizes."""
    x, out, on_x = call.args[0], call.out, call.axes(call.args[0])
    if x.numel() == 0:
        call.freeze("view of an empty tensor", *on_x)
        return unlabelled(out)
    before = [ViewedAxis(*each) for each in zip(x.shape, on_x, call.fixed(x), strict=True)]
    runs, axes = view_factors(x.shape, out.shape), dict[int, Ids | None].fromkeys(range(out.dim()))
    for (left, right), ones in zip(runs, ones_beside(x.shape, out.shape, runs), strict=True):
        axes.update(_run(call, before, left, right, ones))
    _note_lengths(call, on_x, axes)
    return tuple(axes.values())


def _run(
    call: Call, before: list[ViewedAxis], left: tuple[int, ...], right: tuple[int, ...], ones: tuple[int, ...]
) -> Iterator[tuple[int, Ids | None]]:
    """Yield the ids on the new axes ``right`` to which the axes ``left`` are viewed."""
    out = call.out.shape
    wide_right = [dim for dim in right if out[dim] > 1]
    given, sizes = [before[dim] for dim in left if before[dim].size > 1], [out[dim] for dim in wide_right]
    # [n, c k] -> [n c, k] splits c k before it merges n and c.
    for middle in _cut([axis.size for axis in given], sizes):
        given = _through(call, given, middle)
    # An axis that has length 1 here, but may have more, merges with the channels, too, where they leave it room.
    room = len(wide_right) != 1 or not call.sizes_stated()[wide_right[0]]
    beside = room and any(before[dim].size == 1 and not before[dim].fixed for dim in (*left, *ones))
    for dim, axis in zip(wide_right, _through(call, given, sizes), strict=True):
        yield dim, call.channels.copies(axis.ids, beside=True) if beside and axis.ids is not None else axis.ids


def _note_lengths(call: Call, on_x: Axes, axes: Mapping[int, Ids | None]) -> None:
    """Note axes of channels whose lengths a view asks for by numbers that agree by chance.

    ``[b, c, h, w] -> [b, h w, c]`` without a permutation keeps channels on axis 1 if there are as many as positions.
    """
    x, out, asked = call.args[0], call.out, call.sizes_asked()
    runs = view_factors(x.shape, out.shape)
    # Where positions become a number of them, or others as `h * h`, an open size takes the rest.
    rest = any(
        all(on_x[d] is None for d in left) and (len(left) > 1 or len(right) > 1 or not any(asked[d] for d in right))
        for left, right in runs
        if all(asked[d] is not None for d in right)
    )
    for left, right in runs:
        carried = [ids for ids in (on_x[dim] for dim in left) if ids is not None]
        if not carried:
            continue
        open_too = rest
        if len(left) > 1 or not call.channels.alone(carried[0]):
            # As flattened images, of which an axis may hold each channel once again.
            right = tuple(dim for dim in right if call.channels.differ(axes[dim]))
            open_too = not any(asked[dim] for dim in right)
        hang = [dim for dim in right if asked[dim] or (asked[dim] is None and open_too)]
        call.state.notes.guard_lengths(call.node, [dim for dim in hang if out.shape[dim] > 1])


def _through(call: Call, given: list[ViewedAxis], sizes: list[int]) -> list[ViewedAxis]:
    """Return the axes of these sizes to which axes longer than 1 are viewed, run by run."""
    axes: list[ViewedAxis] = []
    for left, right in view_factors([axis.size for axis in given], sizes):
        if len(left) == len(right) == 1:
            axes.append(given[left[0]])
            continue
        before = [given[dim] for dim in left]
        ids, inside = merged(call, before)
        chosen, ids = (0, None) if ids is None else parted(call, ids, [sizes[dim] for dim in right], inside)
        fixed = all(axis.fixed for axis in before)
        axes += [ViewedAxis(sizes[dim], ids if at == chosen else None, fixed) for at, dim in enumerate(right)]
    return axes


def _cut(*sides: list[int]) -> Iterator[list[int]]:
    """Cut each side's axes where a stride of the other divides each stride or is its multiple."""
    strides = [{math.prod(sizes[dim:]) for dim in range(len(sizes) + 1)} for sizes in sides]
    every = set().union(*strides)
    cuts = {s for s in every if all(s % t == 0 or t % s == 0 for t in every)}
    for own in strides:
        yield [outer // inner for outer, inner in itertools.pairwise(sorted(own | cuts, reverse=True))]


def merged(call: Call, given: list[ViewedAxis]) -> tuple[Ids | None, tuple[int, int]]:
    """Return the ids of axes merged into one, and the strides (from, to) of the channels in it.

    Each channel occurs once per position of the other axes, every time with a new value.
    """
    carriers = [i for i, axis in enumerate(given) if axis.ids is not None]
    if not carriers:
        return None, (0, 0)
    # Only one axis with channels can become narrower: the longest stays, the others freeze.
    chosen = max(carriers, key=lambda i: given[i].size)
    call.freeze("merged with another axis of channels", *(given[i].ids for i in carriers if i != chosen))
    ids = given[chosen].ids
    assert ids is not None
    sizes = [axis.size for axis in given]
    stride = math.prod(sizes[chosen + 1 :])
    if len(given) == 1:
        return ids, (1, len(ids))
    shape = [size if i == chosen else 1 for i, size in enumerate(sizes)]
    every = np.broadcast_to(ids.reshape(shape), sizes).ravel()
    beside = not all(axis.fixed for i, axis in enumerate(given) if i != chosen)
    return call.channels.copies(every, beside=beside), (stride, stride * len(ids))


def parted(call: Call, ids: Ids, sizes: list[int], inside: tuple[int, int]) -> tuple[int, Ids]:
    """Choose the new axis that carries the channels; return its index and its ids.

    If channels already repeat along a new axis (an earlier merge is undone), it is this one. Otherwise it is the
    longest of the new axes that hold channels only, the later one on a tie; if that is blocked, the next longest
    (complete heads, if a rotary table freezes the head dim).
    """
    if len(sizes) == 1:
        return 0, ids
    channel = call.channels.channel(ids).reshape(sizes)
    undone = [dim for dim in range(len(sizes)) if (_rows(channel, dim) == _rows(channel, dim)[0]).all()]
    strides = [math.prod(sizes[dim + 1 :]) for dim in range(len(sizes))]
    within = [d for d, stride in enumerate(strides) if inside[0] <= stride and stride * sizes[d] <= inside[1]]
    if undone:
        chosen = undone[-1]
    else:
        call.needs_rewrite("a view that splits channels", ids)
        ranked = sorted(within or range(len(sizes)), key=lambda dim: (-sizes[dim], -dim))
        chosen = ranked[call.state.choices.take(call.node, ids, len(ranked))]
    shape = " x ".join(map(str, sizes))
    return chosen, call.unify_rows(_rows(ids.reshape(sizes), chosen), f"view as {shape}, channels on {sizes[chosen]}")


def _rows(ids: Ids, dim: int) -> Ids:
    """Reshape [..., n, ...] to [others, n]."""
    return np.moveaxis(ids, dim, -1).reshape(-1, ids.shape[dim])


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Axes:
    """``[b, c r r, h, w] -> [b, c, h r, w r]``: the r r sub-pixels become one channel."""
    x, factor = call.args[0], call.args[1]
    axes = list(call.axes(x))
    ids = axes[-3]
    if ids is not None:
        needs_number(call, "a factor", ids)
        rows = ids.reshape(-1, factor * factor).T
        axes[-3] = call.unify_rows(rows, f"pixel shuffle by {factor}")
    return _space_frozen(call, axes)


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Axes:
    """``[b, c, h r, w r] -> [b, c r r, h, w]``: each channel occurs r r times."""
    x, factor = call.args[0], call.args[1]
    axes = list(call.axes(x))
    ids = axes[-3]
    if ids is not None:
        needs_number(call, "a factor", ids)
        axes[-3] = call.channels.copies(np.repeat(ids, factor * factor))
    return _space_frozen(call, axes)


def _space_frozen(call: Call, axes: list[Ids | None]) -> Axes:
    call.freeze("an axis with channels is treated as space", *axes[-2:])
    return (*axes[:-2], None, None)


@rule("im2col")
def patches(call: Call) -> Axes:
    """``[b, c, h, w] -> [b, c k k, l]``: each channel occurs k k times in a row."""
    x, kernel = call.args[0], call.args[1]
    axes = list(call.axes(x))
    ids = axes[-3]
    needs_number(call, "a window over channels", ids)
    if ids is not None:
        axes[-3] = call.channels.copies(np.repeat(ids, math.prod(kernel)))
    return (*_space_frozen(call, axes)[:-2], None)


@rule("col2im")
def overlap_added(call: Call) -> Axes:
    """``[b, c k k, l] -> [b, c, h, w]``: k k positions become one channel; patches are summed."""
    x, kernel = call.args[0], call.args[2]
    *lead, ids, along = call.axes(x)
    call.freeze("an axis with channels is treated as space", along)
    needs_number(call, "a window over channels", ids)
    if ids is not None:
        ids = call.unify_rows(ids.reshape(-1, math.prod(kernel)).T, f"fold of {math.prod(kernel)} positions")
    return (*lead, ids, None, None)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> Axes:
    """``[b, g n] -> [b, n g]``: position j of every group becomes one channel, interleaved."""
    x, groups = call.args[0], call.args[1]
    axes = list(call.axes(x))
    ids = axes[1]
    if ids is not None:
        needs_number(call, "a number of groups", ids)
        rows = ids.reshape(groups, -1)
        call.unify_rows(rows, f"channel shuffle over {groups} groups")
        axes[1] = np.ascontiguousarray(rows.T).ravel()
    return tuple(axes)


@rule("repeat", keeps_parameters=True, creates_channels=True, uniform=repeated)
def repeat(call: Call) -> Axes:
    """Axes are repeated several times, with new axes in front."""
    x, counts = call.args[0], call.args[1]
    axes = list(call.axes(x))
    lead, hangs = len(counts) - len(axes), call.hangs
    result: list[Ids | None] = [None] * lead
    for count, ids in zip(counts[lead:], axes, strict=True):
        if ids is not None and (count != 1 or hangs):
            ids = call.channels.copies(np.tile(ids, count), beside=hangs)
        result.append(ids)
    return tuple(result)


@rule("view_as_complex", "view_as_real")
def parts_of_complex(call: Call) -> Axes:
    """The last axis holds real and imaginary part, which are no channels."""
    axes = call.axes(call.args[0])
    if call.name == "view_as_real":
        return (*axes, None)
    call.freeze("real and imaginary parts", axes[-1])
    return axes[:-1]
