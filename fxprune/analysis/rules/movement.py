"""Rules for operators that move, cut or join axes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import fx

from fxprune.pytorch.call_targets import is_pattern

from ..call import Call, inside_call
from ..channels import Axes, Ids
from ..lengths import bounds_at
from ..operation import unlabelled
from .numbers import needs_places
from .registry import rule
from .uniformity import expanded, moved


@rule(
    "clone", "alias", "detach", "detach_", "contiguous", "_to_copy", "to", "lift", "lift_fresh", "lift_fresh_copy",
    "positive", "_conj", "resolve_conj", "dropout", "feature_dropout", "alpha_dropout", "view_as",
    keeps_parameters=True, uniform=moved,
)  # fmt: skip
def identity(call: Call) -> Axes:
    """All positions stay."""
    return call.axes(call.args[0])


@rule("as_strided", "as_strided_", keeps_parameters=True)
def as_strided(call: Call) -> Axes:
    """PyTorch's own keep channels where sizes and strides stay; a model's hold at full width."""
    axes = call.axes(call.args[0])
    assert call.layout is not None  # since the first argument is a tensor
    sizes, strides = call.layout
    by_model = call.node is None or str(getattr(call.node.target, "__name__", call.node.target)).startswith(call.name)
    if sizes == call.out.shape and not by_model:
        pairs = zip(sizes, strides, call.out.stride(), strict=True)
        if all(size == 1 or before == after for size, before, after in pairs):
            return axes
    call.freeze("arbitrary strides", *axes)
    return unlabelled(call.out)


@rule("permute", keeps_parameters=True, uniform=moved)
def permute(call: Call) -> Axes:
    """The axes change their order."""
    axes = call.axes(call.args[0])
    return tuple(axes[dim % len(axes)] for dim in call.args[1])


@rule(
    "transpose.int", "transpose_", "swapaxes", "swapdims", "t", "t_", "numpy_T", "mT", keeps_parameters=True,
    uniform=moved,
)  # fmt: skip
def transpose(call: Call) -> Axes:
    """Two axes are swapped, by default the last two."""
    axes = list(call.axes(call.args[0]))
    if len(axes) > 1:
        a, b = call.args[1:3] if len(call.args) > 2 else (-1, -2)
        axes[a], axes[b] = axes[b], axes[a]
    return tuple(axes)


@rule("unsqueeze", "unsqueeze_", keeps_parameters=True, uniform=moved)
def unsqueeze(call: Call) -> Axes:
    """The result has a new axis of length 1."""
    axes = list(call.axes(call.args[0]))
    axes.insert(call.args[1] % call.out.dim(), None)
    return tuple(axes)


@rule("squeeze", "squeeze_", keeps_parameters=True, uniform=moved)
def squeeze(call: Call) -> Axes:
    """Axes of length 1, which carry no channels, are removed."""
    axes, sizes = call.axes(call.args[0]), call.layout[0] if call.layout else ()
    dims = call.args[1] if len(call.args) > 1 else range(len(sizes))
    gone = {dim % max(len(sizes), 1) for dim in ([dims] if isinstance(dims, int) else dims)}
    call.needs_rewrite("a squeeze of channels", *(axes[dim] for dim in gone if dim < len(axes)))
    fixed = call.fixed(call.args[0], sizes)
    if open_dims := [dim for dim in sorted(gone) if dim < len(axes) and axes[dim] is None and not fixed[dim]]:
        _guard_squeeze(call, open_dims, axes)
    return tuple(ids for dim, ids in enumerate(axes) if dim not in gone or sizes[dim] != 1)


def _guard_squeeze(call: Call, dims: list[int], axes: Axes) -> None:
    """A squeeze that may remove other axes for other inputs is guarded, or freezes."""
    if not call.states_sizes:
        call.freeze(inside_call("a squeeze that depends on an input", call.node), *axes)
    elif call.state.rewritable and call.node is not None:
        call.state.notes.squeezed[call.node.name] = dims


@rule("expand", keeps_parameters=True, creates_channels=True, uniform=expanded)
def expand(call: Call) -> Axes:
    """The result has new axes in front, and repeats axes of length 1."""
    axes = call.axes(call.args[0])
    return (*(None for _ in range(call.out.dim() - len(axes))), *axes)


@rule("slice.Tensor", keeps_parameters=True, uniform=moved)
def cut(call: Call) -> Axes:
    """The result has a range of one axis."""
    axes, dim = list(call.axes(call.args[0])), call.args[1]
    ids = axes[dim]
    if ids is not None:
        axes[dim] = _taken(call, ids)
    return tuple(axes)


def _taken(call: Call, ids: Ids) -> Ids | None:
    """Channels in a range go on; a range of one freezes, unless it is part of a known pattern."""
    x, dim, start, stop, step = call.args
    taken = ids[start:stop:step]
    if len(taken) != len(ids):
        needs_places(call, "a slice of channels", ids, bounds_at(call.node, dim % x.dim(), x.dim()))
        if step > 1 and not _is_put(call.node):
            call.state.strided.add(x, call.node, ids)
    if len(taken) > 1:
        return ids if len(taken) == len(ids) else taken
    if not (len(taken) and call.node is not None and is_pattern(call.node)):
        call.freeze("one channel is sliced out", taken if len(taken) else ids)
    return None


def _is_put(node: fx.Node | None) -> bool:
    """Tell whether values are put at a slice, which an index can name: no view is left."""
    if node is None or node.target is not operator.setitem:
        return False
    items = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    return all(isinstance(item, slice | int | EllipsisType | None) for item in items)


@rule(
    "split.Tensor", "split.sizes", "split_with_sizes", "chunk", "tensor_split.sections", keeps_parameters=True,
    uniform=moved,
)  # fmt: skip
def split(call: Call) -> list[Axes]:
    """The results are consecutive pieces of one axis."""
    if len(call.out) > 1:
        needs_places(call, "a split of channels", call.axes(call.args[0])[call.args[2]])
    return _pieces(call)


@rule("unsafe_split", keeps_parameters=True, uniform=moved)
def gates(call: Call) -> list[Axes]:
    """The results are pieces of one axis: the gates of a recurrent layer, by its attributes."""
    if not call.inside_layer:
        needs_places(call, "a split of channels", call.axes(call.args[0])[call.args[2]])
    return _pieces(call)


def _pieces(call: Call) -> list[Axes]:
    x, dim = call.args[0], call.args[2]
    axes = list(call.axes(x))
    ids = axes[dim]
    if ids is None:
        return [tuple(axes) for _ in call.out]
    ends = np.cumsum([piece.shape[dim] for piece in call.out])
    pieces = np.split(ids, ends[:-1])
    call.freeze("split into single channels", *(piece for piece in pieces if len(piece) == 1))
    result = []
    for piece in pieces:
        own = list(axes)
        own[dim] = piece if len(piece) > 1 else None
        result.append(tuple(own))
    return result


@rule("select.int", keeps_parameters=True, uniform=moved)
def select(call: Call) -> Axes:
    """The result has one position of an axis; a channel there freezes where it is read."""
    axes, dim, place = list(call.axes(call.args[0])), *call.args[1:3]
    ids = axes.pop(dim)
    if ids is not None and not (place in (0, -1) and call.node is not None and is_pattern(call.node)):
        needs_places(call, "one of the channels", ids)
        call.freeze("one channel is picked by its index", ids[place : place + 1 or None])
    return tuple(axes)


@rule("unbind.int", keeps_parameters=True, uniform=moved)
def unbind(call: Call) -> list[Axes]:
    """The results are the single positions of an axis; channels there freeze."""
    axes = list(call.axes(call.args[0]))
    dim = call.args[1]
    call.freeze("an axis of channels is taken apart", axes[dim])
    del axes[dim]
    return [tuple(axes) for _ in call.out]


@rule("flip", keeps_parameters=True, uniform=moved)
def flip(call: Call) -> Axes:
    """The positions of some axes are reversed."""
    axes = list(call.axes(call.args[0]))
    for dim in call.args[1]:
        ids = axes[dim]
        axes[dim] = None if ids is None else np.ascontiguousarray(ids[::-1])
    return tuple(axes)


@rule("rot90", keeps_parameters=True)
def rotate(call: Call) -> Axes:
    """Two axes are turned: channels there freeze, other axes pass."""
    axes, dims = list(call.axes(call.args[0])), [dim % call.out.dim() for dim in call.args[2]]
    call.freeze("an axis with channels is treated as space", *(axes[dim] for dim in dims))
    return tuple(None if dim in dims else ids for dim, ids in enumerate(axes))


@rule("unfold", keeps_parameters=True)
def windows(call: Call) -> Axes:
    """``[..., n, ...] -> [..., windows, ..., size]``: channels on that axis freeze."""
    axes = list(call.axes(call.args[0]))
    dim = call.args[1] % max(len(axes), 1)
    call.freeze("an axis with channels is treated as space", axes[dim])
    axes[dim] = None
    return (*axes, None)


@rule("roll")
def roll(call: Call) -> Axes:
    """Rotated channels freeze: an offset among channels holds only at full width."""
    axes = call.axes(call.args[0])
    call.freeze("channels are rotated", *(axes[dim] for dim in call.args[2] or range(len(axes))))
    return axes


@rule("constant_pad_nd", "pad")
def pad(call: Call) -> Axes:
    """Padding adds constant channels before and after an axis, which all carry one number."""
    x, amounts = call.args[0], call.args[1]
    axes = list(call.axes(x))
    for i in range(len(amounts) // 2):
        dim, here = x.dim() - 1 - i, slice(2 * i, 2 * i + 2)
        ids = axes[dim]
        if ids is not None and any(amounts[here]):
            needs_places(call, "padding among channels", ids, _given(call.node)[here])
            axes[dim] = _padded(call, ids, *amounts[here])
    return tuple(axes)


def _padded(call: Call, ids: Ids, before: int, after: int) -> Ids:
    """Positions that are added are new channels; fewer than none cut some off."""
    ids = ids[max(-before, 0) : len(ids) - max(-after, 0)]
    return np.concatenate((call.channels.fresh(max(before, 0)), ids, call.channels.fresh(max(after, 0))))


def _given(node: fx.Node | None) -> Sequence[Any]:
    """Return the amounts by which a call of the graph pads, of the last axis first."""
    # A call has them second, also one that a model gave them by name.
    amounts = () if node is None or node.target is not F.pad else node.args[1]
    return amounts if isinstance(amounts, (tuple, list)) else ()
