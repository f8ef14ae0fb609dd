"""Rules for values that are picked from places, or put at places, which an index names."""

from __future__ import annotations

import torch

from ..call import Call
from ..channels import Axes, Ids
from ..labels import tensors_in
from .pointwise import meet_axis
from .registry import rule

_PICKS = "an index picks positions"
_MASKS = (torch.bool, torch.uint8)


@rule("index.Tensor", "_unsafe_index.Tensor", keeps_parameters=True)
def index(call: Call) -> Axes:
    """Tables pick positions: channels there freeze, other axes pass."""
    axes = call.axes(call.args[0])
    return tuple(None if dim is None else axes[dim] for dim in _picked(call))


@rule("index_put", "index_put_", "_unsafe_index_put")
def index_put(call: Call) -> Axes:
    """Tables pick positions, which take values: channels there freeze, on other axes both meet.

    Where a mask picks them, and all take one number, mask and tensor meet position by position.
    """
    x, tables, values = call.args[:3]
    axes = list(call.axes(x))
    given = [(place, table) for place, table in enumerate(tables) if table is not None]
    if len(given) == 1 and given[0][1].dtype in _MASKS and values.numel() == 1:
        place, mask = given[0]
        axes[place : place + mask.dim()] = [meet_axis(call, [(x, place + i), (mask, i)]) for i in range(mask.dim())]
        return tuple(axes)
    dims = _picked(call)
    for behind, dim in enumerate(reversed(dims), 1):
        if values.dim() < behind or values.shape[-behind] == 1:
            continue
        if dim is None:
            call.freeze(_PICKS, call.axes(values)[-behind])
        else:
            axes[dim] = meet_axis(call, [(x, dim), (values, values.dim() - behind)])
    return tuple(axes[dim] if dim in dims else None for dim in range(x.dim()))


def _picked(call: Call) -> list[int | None]:
    """Freeze the axes that tables pick from; return those of what is picked, None for new ones.

    A mask picks from as many axes as it has, and makes one.
    """
    x, tables = call.args[:2]
    axes, ranks = call.axes(x), [0]
    kept: list[int] = []
    picked: list[int] = []
    for table in [*tables, *[None] * x.dim()]:
        if len(kept) + len(picked) == x.dim():
            break
        mask = table is not None and table.dtype in _MASKS
        span = range(len(kept) + len(picked), len(kept) + len(picked) + (table.dim() if mask else 1))
        if table is None:
            kept += span
            continue
        picked += span
        ranks.append(1 if mask else table.dim())
        call.freeze(_PICKS, *(axes[dim] for dim in span), *call.axes(table))
    together = not picked or picked[-1] - picked[0] == len(picked) - 1
    place = picked[0] if picked and together else 0
    return [*kept[:place], *[None] * max(ranks), *kept[place:]]


@rule("index_fill", "index_fill_")
@rule("index_select", keeps_parameters=True)
def index_select(call: Call) -> Axes:
    """A table picks or fills positions of one axis: channels there freeze."""
    x, dim, table = call.args[:3]
    axes = list(call.axes(x))
    call.freeze(_PICKS, *call.axes(table))
    if axes:
        call.freeze(_PICKS, axes[dim])
        axes[dim] = None
    return tuple(axes)


@rule("index_add", "index_add_", "index_copy", "index_copy_", "index_reduce", "index_reduce_")
def index_add(call: Call) -> Axes:
    """A table picks positions of one axis, which take those of a source; elsewhere both meet."""
    x, dim, table, source = call.args[:4]
    call.freeze(_PICKS, *call.axes(table))
    return _beside(call, dim, x, source)


@rule("gather")
def gather(call: Call) -> Axes:
    """Indices pick along one axis; on others each channel has its own, or all have the same."""
    x, dim, index = call.args[:3]
    return _beside(call, dim, x, index)


@rule("linalg_cross", "slice_scatter")
def crossed(call: Call) -> Axes:
    """Along one axis places differ or mix, and channels freeze; on others both operands meet."""
    return _beside(call, call.named("dim"), *call.args[:2])


@rule("bucketize.Tensor", "isin.Tensor_Tensor", "searchsorted.Tensor")
def looked_up(call: Call) -> Axes:
    """Each number is looked up by itself in a table, whose axes are no channels."""
    first, second, *more = call.args
    x, table = (first, second) if call.name != "searchsorted" else (second, first)
    others = (ids for other in (table, *tensors_in(more)) for ids in call.axes(other))
    by_place = call.named("assume_unique") or (call.name == "searchsorted" and table.dim() > 1)
    call.freeze("numbers of a table", *others, *(call.axes(x) if by_place else ()))
    return call.axes(x)


@rule("scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_")
def scatter(call: Call) -> Axes:
    """Indices put along one axis; on others each channel has its own, or all have the same."""
    x, dim, index, source = call.args[:4]
    return _beside(call, dim, x, index, *[source] * isinstance(source, torch.Tensor))


def _beside(call: Call, dim: int, *operands: torch.Tensor) -> Axes:
    """Let operands meet on axes but ``dim``; freeze channels there, and where lengths differ."""
    axes: list[Ids | None] = []
    for other in range(call.out.dim()):
        here = [(each, other) for each in operands if each.dim() > other]
        if other != dim % call.out.dim() and len({each.shape[other] for each, _ in here}) == 1:
            axes.append(meet_axis(call, here))
        else:
            call.freeze(_PICKS, *(call.axes(each)[other] for each, _ in here))
            axes.append(None)
    return tuple(axes)
