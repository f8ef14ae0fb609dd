"""Rules for values that are picked from places, or put at places, which an index names."""

from __future__ import annotations

from typing import Any

import torch

from ..call import Call, unlabelled
from ..channels import Axes, Ids
from .pointwise import meet_axis
from .registry import rule

_PICKS = "an index picks positions"


@rule("index.Tensor", "_unsafe_index.Tensor", keeps_parameters=True)
def index(call: Call) -> Axes:
    """Tables pick positions: channels there freeze, other axes pass."""
    axes = call.axes(call.args[0])
    dims = _picked(call, call.args[1])
    return unlabelled(call.out) if dims is None else tuple(None if dim is None else axes[dim] for dim in dims)


@rule("index_put", "index_put_", "_unsafe_index_put")
def index_put(call: Call) -> Axes:
    """Tables pick positions, which take values: channels there freeze, on other axes both meet."""
    x, values = call.args[0], call.args[2]
    axes = list(call.axes(x))
    dims = _picked(call, call.args[1])
    if dims is None:
        call.freeze("a mask picks positions", *call.axes(values))
        return unlabelled(call.out)
    for behind, dim in enumerate(reversed(dims), 1):
        given = values.dim() >= behind and values.shape[-behind] > 1
        if dim is not None and given:
            axes[dim] = meet_axis(call, [(x, dim), (values, values.dim() - behind)])
        elif given:
            call.freeze(_PICKS, call.axes(values)[-behind])
    return tuple(axes[dim] if dim in dims else None for dim in range(x.dim()))


def _picked(call: Call, given: Any) -> list[int | None] | None:
    """Freeze the axes that tables pick from; return each axis of what is picked, None for new ones.

    A mask picks an unknown number of positions: then all channels freeze, and the answer is None.
    """
    x = call.args[0]
    tables = [*given, *[None] * (x.dim() - len(given))]
    picked = [dim for dim, table in enumerate(tables) if table is not None]
    axes = call.axes(x)
    is_mask = any(tables[dim].dtype in (torch.bool, torch.uint8) for dim in picked)
    if is_mask:
        call.freeze("a mask picks positions", *axes)
    call.freeze(_PICKS, *(axes[dim] for dim in picked), *(ids for dim in picked for ids in call.axes(tables[dim])))
    if is_mask:
        return None
    shapes = [tables[dim].shape for dim in picked]
    new: list[int | None] = [None] * len(torch.broadcast_shapes(*shapes))
    kept: list[int | None] = [dim for dim in range(x.dim()) if dim not in picked]
    together = picked == list(range(picked[0], picked[0] + len(picked))) if picked else True
    place = picked[0] if picked and together else 0
    return [*kept[:place], *new, *kept[place:]]


@rule("index_select", "index_fill", "index_fill_")
def index_select(call: Call) -> Axes:
    """A table picks positions of one axis: channels there freeze."""
    x, dim, table = call.args[:3]
    axes = list(call.axes(x))
    call.freeze(_PICKS, *call.axes(table))
    if axes:
        call.freeze(_PICKS, axes[dim])
        axes[dim] = None
    return tuple(axes)


@rule("index_add", "index_add_", "index_copy", "index_copy_", "index_reduce", "index_reduce_")
def index_add(call: Call) -> Axes:
    """A table picks positions of one axis, which take those of another tensor; elsewhere both meet."""
    x, dim, table, source = call.args[:4]
    call.freeze(_PICKS, *call.axes(table))
    return _beside(call, dim, x, source)


@rule("gather")
def gather(call: Call) -> Axes:
    """Indices pick positions of one axis; on others each channel has its own, or all have the same."""
    x, dim, index = call.args[:3]
    return _beside(call, dim, x, index)


@rule("scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_")
def scatter(call: Call) -> Axes:
    """Indices say where values go along one axis; on others each channel has its own, or all have the same."""
    x, dim, index, source = call.args[:4]
    return _beside(call, dim, x, index, *[source] * isinstance(source, torch.Tensor))


def _beside(call: Call, dim: int, *operands: torch.Tensor) -> Axes:
    """Let operands meet on all axes except ``dim``, where channels freeze; elsewhere, too, if lengths differ."""
    axes: list[Ids | None] = []
    for other in range(call.out.dim()):
        here = [(each, other) for each in operands if each.dim() > other]
        if other != dim % call.out.dim() and len({each.shape[other] for each, _ in here}) == 1:
            axes.append(meet_axis(call, here))
        else:
            call.freeze(_PICKS, *(call.axes(each)[other] for each, _ in here))
            axes.append(None)
    return tuple(axes)
