"""Rewrite calls that state positions among channels: slices and constant indices."""

from __future__ import annotations

import operator
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.errors import RewriteError
from fxprune.node_facts import Codes, Shape
from fxprune.pytorch import call_targets
from fxprune.pytorch.torch_private import OpOverload

from .site import WIDE, Site, standing_for

_SELECTS = "select", torch.select


def sliced(site: Site) -> fx.Node | None:
    """getitem, setitem, narrow, select: bounds among channels become bounds among the kept ones."""
    given = call_targets.positional(site.node.target, site.node.args, site.node.kwargs)[0][0]
    if not isinstance(given, fx.Node) or not isinstance(site.coupling.nodes[given.name].value, Shape):
        return None
    on_x = site.shape_of(0)
    if not on_x.labelled or _takes_tuple(site):
        return None
    if site.kind in ("narrow", torch.narrow, *_SELECTS):
        return _numbered(site, on_x)
    if isinstance(site.node.target, OpOverload):
        return _ranged(site, on_x)
    items = site.args[1] if isinstance(site.args[1], tuple) else (site.args[1],)
    beside = not all(isinstance(item, slice | int | EllipsisType | None) for item in items)
    wide = site.node.args[1] if isinstance(site.node.args[1], tuple) else (site.node.args[1],)
    taken = [_axes_taken(site, item, wide, len(on_x.sizes)) for item in wide]
    dim, new, x = 0, list[Any](), site.args[0]
    for item, before, axes in zip(items, wide, taken, strict=True):
        if before is Ellipsis or axes != 1:
            new += [slice(None)] * axes if before is Ellipsis else [item]
            dim += axes
            continue
        codes = on_x.axes[dim]
        item = slice(None) if call_targets.takes_all(before, given, dim) else item
        if codes is not None and item != slice(None):
            site.guard_length(dim, on_x)
        new.append(item if codes is None else _bounds(site, codes, _stored_place(site, before, item)))
        if isinstance(item, slice) and isinstance(new[-1], list) and beside:  # two lists would go in pairs
            if site.node.target is operator.setitem:
                raise RewriteError(
                    f"a slice with steps at node `{site.node}` stands beside an index that is written to."
                )
            x, new[-1] = site.call(operator.getitem, x, (*(slice(None) for _ in range(dim)), new[-1])), slice(None)
        dim += 1
    return site.copy((x, tuple(new), *site.args[2:]), {})


def _takes_tuple(site: Site) -> bool:
    """Tell whether an index is a tuple that a call returned, for axes without channels."""
    index = site.node.args[1] if len(site.node.args) > 1 else None
    if site.coupling.nodes[site.node.name].places is not None:
        return False
    return isinstance(index, fx.Node) and isinstance(site.coupling.nodes[index.name].value, tuple)


def _axes_taken(site: Site, item: Any, items: tuple[Any, ...], rank: int) -> int:
    """Count the axes that one item of an index takes; a mask takes as many as it has."""
    if item is Ellipsis:
        return rank - sum(_axes_taken(site, other, items, rank) for other in items if other is not Ellipsis)
    if isinstance(item, fx.Node) and site.coupling.nodes[item.name].is_mask:
        return len(site.coupling.nodes[item.name].value.sizes)
    return int(item is not None and not isinstance(item, bool))


def _bounds(site: Site, codes: Codes, item: Any) -> Any:
    """Return a slice, a number, or the index that is known, counted among the kept channels."""
    if isinstance(item, int):
        return _place(site, codes, item)
    if isinstance(item, slice):
        if item == slice(None):
            return item
        item = slice(*map(site.number, (item.start, item.stop, item.step)))
        taken = np.arange(len(codes))[item]
    else:
        known = site.coupling.nodes[site.node.name].places
        if known is None:
            raise RewriteError(f"an index among channels at node `{site.node}` is not known.")
        taken = known
    kept = site.kept(codes)
    places = (np.cumsum(kept) - 1)[taken[kept[taken]]]
    if len(taken) == 1 and not len(places):  # only the sizes of a lone channel are read: any other one serves
        return slice(0, 1)
    # A slice shares memory with its tensor, what an index picks does not.
    if isinstance(item, slice) and len(places) and (np.diff(places) == 1).all():
        return slice(int(places[0]), int(places[-1]) + 1, None)
    return [int(place) for place in places]


def _stored_place(site: Site, wide: Any, item: Any) -> Any:
    """Return the number that a stored tensor of one names; any other item as it is."""
    facts = site.coupling.nodes[wide.name] if isinstance(wide, fx.Node) else None
    is_number = facts is not None and isinstance(facts.value, Shape) and not facts.value.sizes
    return int(facts.places[0]) if facts is not None and is_number and facts.places is not None else item


def _place(site: Site, codes: Codes, place: Any) -> int:
    """Return the place of a channel among the kept ones; one that nobody reads may be gone."""
    kept, place = site.kept(codes), site.number(place)
    return int(kept[:place].sum()) if kept[place] else int(place)


def _numbered(site: Site, on_x: Shape) -> fx.Node | None:
    """Count the numbers of select and narrow among kept positions."""
    dim = site.parameter(1, "dim") % len(on_x.sizes)
    codes = on_x.axes[dim]
    if codes is None:
        return None
    site.guard_length(dim, on_x)
    if site.kind in _SELECTS:
        wide = call_targets.positional(site.node.target, site.node.args, site.node.kwargs)
        wide_place = wide[0][2] if len(wide[0]) > 2 else wide[1].get("index")
        place = _stored_place(site, wide_place, site.parameter(2, "index"))
        return site.copy((site.args[0], dim, _place(site, codes, place)), {})
    start, length = site.number(site.parameter(2, "start")), site.number(site.parameter(3, "length"))
    kept, start = site.kept(codes), start % len(codes) if start < 0 else start
    before, inside = int(kept[:start].sum()), int(kept[start : start + length].sum())
    if length == 1 and not inside:  # as in `_bounds`
        before, inside = 0, 1
    return site.copy((site.args[0], dim, before, inside), {})


def _ranged(site: Site, on_x: Shape) -> fx.Node | None:
    """aten.slice: from ``start`` to ``end`` of one axis, counted in kept positions."""
    dim = site.parameter(1, "dim", 0) % len(on_x.sizes)
    codes, names = on_x.axes[dim], ("start", "end", "step")
    bounds = slice(*(site.parameter(at, name) for at, name in enumerate(names, 2)))
    if codes is None:
        return None
    site.guard_length(dim, on_x)
    items = (*(slice(None) for _ in range(dim)), _bounds(site, codes, bounds))
    return site.copy((site.args[0], items), {}, operator.getitem)


def picked(site: Site) -> fx.Node | None:
    """index_select, aten.index, repeat_interleave: places of a constant, among kept ones."""
    on_x = site.shape_of(0)
    if site.kind is torch.ops.aten.index:
        tables = site.parameter(1, "indices")
        dim = next(dim for dim, table in enumerate(tables) if table is not None)
    else:
        at = 2 if site.kind in call_targets.INTERLEAVED else 1
        dim = site.parameter(at, "dim") % max(len(on_x.sizes), 1)
    codes = on_x.axes[dim] if on_x.sizes else None
    if codes is None:
        return None
    site.guard_length(dim, on_x)
    items = (*(slice(None) for _ in range(dim)), _bounds(site, codes, None))
    made = site.graph.create_node("call_function", operator.getitem, (site.args[0], items), {}, site.node.name)
    return standing_for(site.node, made)


def put_back(site: Site, view: fx.Node) -> None:
    """Put what a call wrote to a view back, where that is a copy of channels at certain places."""
    x, items = view.args[:2]
    if isinstance(items, tuple) and any(isinstance(item, list) for item in items):
        site.call(operator.setitem, x, items, view)


def _is_met(site: Site, table: Any, codes: Codes) -> bool:
    """Tell whether a table is a mask that meets the channels position by position."""
    value = site.coupling.nodes[table.meta[WIDE]].value if isinstance(table, fx.Node) else None
    on_table = value.axes[0] if isinstance(value, Shape) and value.sizes else None
    return on_table is not None and np.array_equal(on_table, codes)


def put(site: Site) -> fx.Node | None:
    """index_copy, slice_scatter and others: values are put at places among the kept positions."""
    on_x, kind = site.shape_of(0), site.kind
    given = {**dict(zip(call_targets.put_names(kind or ""), site.args)), **site.kwargs}
    tables = given.get("indices")
    dim = given.get("dim", 0) if tables is None else next(d for d, table in enumerate(tables) if table is not None)
    codes = on_x.axes[dim] if on_x.sizes else None
    if codes is None or (tables is not None and _is_met(site, tables[dim], codes)):
        return None
    site.guard_length(dim % len(on_x.sizes), on_x)
    name, item = str(getattr(kind, "__name__", kind)), None
    if name == "slice_scatter":
        item = slice(given.get("start"), given.get("end"), given.get("step", 1))
    elif name == "select_scatter":
        place = site.number(given["index"])
        item = slice(place, place + 1 or None)
    places = _bounds(site, codes, item)
    if name == "select_scatter":
        places = places.start
    items = (*(slice(None) for _ in range(dim % len(on_x.sizes))), places)
    x: fx.Node = site.args[0]
    in_place = name.endswith("_")
    value = next(given[each] for each in ("source", "value", "values", "src") if each in given)
    if not in_place:  # of the type of what is put: where both are not of one, a check in float64 promotes new zeros
        x = site.graph.create_node("call_method", "type_as", (x, value)) if isinstance(value, fx.Node) else x
        x = site.graph.create_node("call_method", "clone", (x,))
    if name.startswith("index_add") or given.get("accumulate"):
        scaled = value if given.get("alpha", 1) == 1 else site.call(operator.mul, value, given["alpha"])
        value = site.call(operator.add, site.call(operator.getitem, x, items), scaled)
    site.call(operator.setitem, x, items, value)
    # The copy has other numbers until they are put: what stands for the call comes after.
    return x if in_place else standing_for(site.node, site.call(operator.getitem, x, slice(None)))
