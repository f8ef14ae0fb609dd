"""Rules for values that are picked from places, or put at places, which an index names.

So are the rows of a table of embeddings, whose columns are channels.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.pytorch.call_targets import INTERLEAVED, call_kind
from fxprune.pytorch.meta import MASKS, value_of

from ..call import Call
from ..channels import Axes, Ids
from ..operation import unlabelled
from .numbers import needs_places
from .pointwise import NO_CHANNELS, meet_axis, paired
from .registry import rule

_PICKS = "an index picks positions"


@rule("index.Tensor", "_unsafe_index.Tensor", keeps_parameters=True)
def index(call: Call) -> Axes:
    """Tables pick positions: a constant one moves channels, others freeze them; other axes pass."""
    x, tables = call.args[:2]
    given = [(dim, table) for dim, table in enumerate(tables) if table is not None]
    moved = _moved(call, x, *given[0]) if len(given) == 1 else None
    if moved is not None:
        return moved
    axes = call.axes(x)
    return tuple(None if dim is None else axes[dim] for dim in _picked(call))


@rule("index_put", "index_put_", "_unsafe_index_put")
def index_put(call: Call) -> Axes:
    """Tables pick the positions that take values; channels there freeze.

    They do not where a constant table names them. Where a mask picks them, and all take one number, mask and tensor
    meet position by position; so do tensor and values on other axes.
    """
    x, tables, values = call.args[:3]
    axes, given = list(call.axes(x)), [(dim, table) for dim, table in enumerate(tables) if table is not None]
    here = _put(call, *given[0], values) if len(given) == 1 else None
    if here is None and len(given) == 1 and given[0][1].dtype in MASKS and values.numel() == 1:
        return _masked(call, axes, *given[0])
    dims: list[int | None] = _picked(call) if here is None else [*range(x.dim())]
    if here is not None:
        axes[given[0][0]] = here
    _meet_values(call, axes, dims, but=None if here is None else given[0][0])
    return tuple(axes[dim] if dim in dims else None for dim in range(x.dim()))


def _masked(call: Call, axes: list[Ids | None], first: int, mask: torch.Tensor) -> Axes:
    """A mask picks positions for one number: it meets the tensor position by position."""
    for dim in range(mask.dim()):
        axes[first + dim] = meet_axis(call, [(call.args[0], first + dim), (mask, dim)])
    return tuple(axes)


def _meet_values(call: Call, axes: list[Ids | None], dims: list[int | None], *, but: int | None) -> None:
    """Values meet a tensor on its axes ``dims``, counted from behind; on new axes they freeze.

    ``but``: an axis that they have met.
    """
    x, _, values = call.args[:3]
    for behind, dim in enumerate(reversed(dims), 1):
        if values.dim() < behind or values.shape[-behind] == 1 or (but is not None and dim == but):
            continue
        if dim is None:
            call.freeze(_PICKS, call.axes(values)[-behind])
        else:
            axes[dim] = meet_axis(call, [(x, dim), (values, values.dim() - behind)])


def _moved(call: Call, x: torch.Tensor, dim: int, table: torch.Tensor) -> Axes | None:
    """Move channels to the places where a constant index puts them; None if none are known."""
    axes = list(call.axes(x))
    ids = axes[dim]
    places = None if ids is None else _named(call, table, ids)
    if ids is None or places is None:
        return None
    axes[dim] = call.channels.distinct(ids[places]) if len(places) > 1 else None
    if len(places) <= 1:
        call.freeze("one channel is picked by its index", ids[places])
    return tuple(axes)


def _named(call: Call, table: torch.Tensor, ids: Ids) -> Ids | None:
    """Return the positions among ``ids`` that an index [n], or a mask, names; None if unknown.

    The narrow network has an index of its own, with the positions of these channels among the kept ones.
    """
    node, notes = call.node, call.state.notes
    listed = _listed(node) if table.dim() == 1 else None
    value = value_of(table) if table.dim() == 1 and listed is None else listed
    if value is None or node is None or call.state.lengths.unknown(node):
        return None
    notes.tables.append((table, node, ids))
    found = value.nonzero()[:, 0] if value.dtype in MASKS else value.long()
    places: Ids = np.arange(len(ids))[found.numpy()]
    call.needs_rewrite("an index among channels", ids)
    notes.places[node.name] = places
    return places


def _listed(node: fx.Node | None) -> torch.Tensor | None:
    """Return the list of numbers by which a call picks or puts values; operators get a tensor."""
    if node is None or node.target not in (operator.getitem, operator.setitem):
        return None
    items = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    lists = [item for item in items if isinstance(item, list)]
    plain = len(lists) == 1 and all(isinstance(number, int) for number in lists[0])
    return torch.tensor(lists[0]) if plain else None


def _put(call: Call, dim: int, table: torch.Tensor, values: Any) -> Ids | None:
    """Let channels at places of a constant index meet what they are set to; None: not known."""
    x = call.args[0]
    behind = x.dim() - dim
    every = not isinstance(values, torch.Tensor) or values.dim() < behind or values.shape[-behind] == 1
    source = None if every else call.axes(values)[-behind]
    ids = call.met(source, call.label(x), dim)
    places = None if ids is None or (source is None and not every) else _named(call, table, ids)
    if ids is None or places is None or len(set(places.tolist())) < len(places):
        return None
    call.unify(call.state.labels.keep_apart(ids[places]), source)
    return ids


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
        mask = table is not None and table.dtype in MASKS
        span = range(len(kept) + len(picked), len(kept) + len(picked) + (table.dim() if mask else 1))
        if table is None:
            kept += span
            continue
        picked += span
        ranks.append(1 if mask else table.dim())
        call.freeze(_PICKS, *(axes[dim] for dim in span), *call.axes(table))
    together = picked[-1] - picked[0] == len(picked) - 1  # PyTorch takes no index without a table
    first = picked[0] if together else 0
    return [*kept[:first], *[None] * max(ranks), *kept[first:]]


@rule("index_fill", "index_fill_")
def index_fill(call: Call) -> Axes:
    """A table fills positions of one axis: a constant one, channels; those freeze otherwise."""
    x, dim, table, value = call.args[:4]
    if x.dim() and _put(call, dim % x.dim(), table, value) is not None:
        return call.axes(x)
    return _along_table(call, call.axes(x))


@rule("index_select", keeps_parameters=True)
def index_select(call: Call) -> Axes:
    """A constant table moves channels, another one freezes them."""
    x, dim, table = call.args[:3]
    if x.dim() == 1 and call.node is not None and call_kind(call.node) in INTERLEAVED:
        return _along_table(call, call.axes(x))  # it may have been flattened, where places depend on other axes
    moved = _moved(call, x, dim, table) if x.dim() else None
    return _along_table(call, call.axes(x)) if moved is None else moved


def _along_table(call: Call, on_x: Axes) -> Axes:
    axes, dim, table = list(on_x), *call.args[1:3]
    call.freeze(_PICKS, *call.axes(table))
    if axes:
        call.freeze(_PICKS, axes[dim])
        axes[dim] = None
    return tuple(axes)


@rule("index_add", "index_add_", "index_copy", "index_copy_")
def index_add(call: Call) -> Axes:
    """A table names positions of one axis, which meet those of a source; so do other axes."""
    x, dim, table, source = call.args[:4]
    on_dim = _put(call, dim % x.dim(), table, source) if x.dim() else None
    return index_reduce(call) if on_dim is None else _beside(call, dim, x, source, on_dim=on_dim)


@rule("index_reduce", "index_reduce_")
def index_reduce(call: Call) -> Axes:
    """A table picks positions of one axis, which take those of a source; elsewhere both meet."""
    x, dim, table, source = call.args[:4]
    call.freeze(_PICKS, *call.axes(table))
    return _beside(call, dim, x, source)


@rule("slice_scatter")
def slice_scatter(call: Call) -> Axes:
    """A source takes a range of one axis, whose channels meet; so do other axes."""
    x, source, dim, start, end, step = call.args[:6]
    return _beside(call, dim, x, source, on_dim=_ranged(call, dim, slice(start, end, step), call.axes(source)[dim]))


@rule("select_scatter")
def select_scatter(call: Call) -> Axes:
    """A source takes one position of an axis, where a channel freezes; other axes meet."""
    x, source, dim, place = call.args[:4]
    dim %= x.dim()
    on_dim = _ranged(call, dim, slice(place, place + 1 or None), None)
    axes = [meet_axis(call, [(x, d + (d >= dim)), (source, d)]) for d in range(source.dim())]
    return (*axes[:dim], on_dim, *axes[dim:])


def _ranged(call: Call, dim: int, at: slice, source: Ids | None) -> Ids | None:
    """Let channels in a range of an axis meet those of a source; they stay apart from others."""
    x = call.args[0]
    ids = call.met(source, call.label(x), dim)
    if ids is None:
        call.freeze(NO_CHANNELS, source)
        return None
    needs_places(call, "a slice of channels", ids)
    taken = call.state.labels.keep_apart(np.ascontiguousarray(ids[at]))
    if len(taken):
        paired(call, taken, source)
    return ids


@rule("gather")
def gather(call: Call) -> Axes:
    """Indices pick along one axis; on others each channel has its own, or all have the same."""
    x, dim, index = call.args[:3]
    return _beside(call, dim, x, index)


@rule("linalg_cross")
def crossed(call: Call) -> Axes:
    """Along one axis positions differ or mix, and channels freeze; on others both operands meet."""
    return _beside(call, call.named("dim"), *call.args[:2])


@rule("scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_")
def scatter(call: Call) -> Axes:
    """Indices put along one axis; on others each channel has its own, or all have the same."""
    x, dim, index, source = call.args[:4]
    return _beside(call, dim, x, index, *[source] * isinstance(source, torch.Tensor))


def _beside(call: Call, dim: int, *operands: torch.Tensor, on_dim: Ids | None = None) -> Axes:
    """Let operands meet on axes but ``dim``; freeze channels there, and where lengths differ.

    ``on_dim``: the ids on that axis, whose channels do not freeze.
    """
    axes: list[Ids | None] = []
    for other in range(call.out.dim()):
        here = [(each, other) for each in operands if each.dim() > other]
        if other != dim % call.out.dim() and len({each.shape[other] for each, _ in here}) == 1:
            axes.append(meet_axis(call, here))
        elif on_dim is not None and other == dim % call.out.dim():
            axes.append(on_dim)
        else:
            call.freeze(_PICKS, *(call.axes(each)[other] for each, _ in here))
            axes.append(None)
    return tuple(axes)


@rule("embedding", reads_weights=())
def embedding(call: Call) -> Axes:
    """Rows of a table, one for each index: channels of indices stay, the columns come last."""
    table, index = call.args[0], call.args[1]
    rows, columns = call.axes(table)
    call.freeze("rows of a table that an index picks", rows)
    call.tie(columns)
    return (*call.axes(index), columns)


@rule("_embedding_bag", "_embedding_bag_forward_only", reads_weights=())
def embedding_bag(call: Call) -> list[Axes]:
    """Sum, mean or maximum of rows of a table: its columns are the result's channels."""
    rows, columns = call.axes(call.args[0])
    call.freeze("channels that pick the rows of a bag", *(ids for x in call.args[1:3] for ids in call.axes(x)))
    call.freeze(
        "rows of a table that an index picks", rows, *(call.axes(call.args[6]) if call.arg(6) is not None else ())
    )
    call.tie(columns)
    # The index of a maximum is the fourth result, for the backward pass only.
    return [(None, columns), *map(unlabelled, call.outs[1:])]
