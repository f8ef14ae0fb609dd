"""What a rule says of one operation: the methods by which it unifies and marks channels."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.pytorch.call_targets import PRODUCTS, canonical_call, scales_input
from fxprune.pytorch.meta import MASKS, value_of

from .channels import Axes, Ids
from .labels import Label
from .marks import Event
from .operation import Operation

Rule = Callable[["Call"], "Axes | list[Axes]"]
_TWO_ROLES = "read by columns and used by rows"


@dataclass(frozen=True, eq=False)
class Call(Operation):
    """An operation as its rule sees it.

    A rule answers by six methods: ``unify``, ``freeze``, ``tie``, ``read``, ``balance`` and ``needs_factor``. Rules for
    views and convolutions also bundle channels (``unify_rows``, ``choose_split``); others declare what the rewrite must
    do (``needs_rewrite``, ``needs_copy`` and the like) and what the narrow network must check (``guard_lengths``,
    ``guard_squeeze``). All accept None: an axis without channels.

    Attributes:
        woken: identities of the ids that waited before this call, and do so no longer.
    """

    woken: set[int] = field(default_factory=set)

    def wake(self, ids: Ids) -> Ids:
        """Let ids that waited stand for channels: the caller unifies them."""
        self.woken.add(id(ids))
        self._state.labels.awaken(ids)
        return ids

    def met(self, ids: Ids | None, label: Label, dim: int) -> Ids | None:
        """Return the ids on an axis that meets ``ids``: if it waits, it waits no longer."""
        found = self._state.labels.met(ids, label, dim)
        self.woken.add(id(found))
        return found

    def unify(self, left: Ids | None, right: Ids | None) -> Ids | None:
        """Unify two axes of one length: position by position, they hold the same channel."""
        if left is None or right is None:
            return right if left is None else left
        self.channels.unite(left, right)
        return left

    def apart(self, ids: Ids) -> Ids:
        """Let ids on a part of an axis merge among themselves only."""
        self._state.labels.vectors[id(ids)] = ids
        return ids

    def freeze(self, why: str, *axes: Ids | None) -> None:
        """Freeze channels: they may not merge."""
        self._state.marks.freeze(why, *axes)

    def tie(self, *axes: Ids | None) -> None:
        """Mark positions of a parameter as rows: a merge keeps one per cluster."""
        self._state.marks.rows += [ids for ids in axes if ids is not None]

    def read(self, ids: Ids | None, *, of: Ids | None) -> None:
        """Mark positions of a weight as columns, which read channels: a merge sums them.

        Those that are rows elsewhere, as of a table of embeddings that the last layer shares, stay rows: a merge keeps
        one per cluster, and the narrow sum lacks the size of the clusters as a factor, which what enters a layer may
        get. The function of a stored weight stays wide: it has no columns.
        """
        if ids is None:
            return
        if self.node is None:
            self.freeze("summed inside a computed weight", ids)
        elif not self._state.origins.has_two_roles(ids):
            self._state.marks.columns.append(ids)
        elif scales_input(self.node) and self.is_given(of):
            self.tie(ids)
            self.balance(_TWO_ROLES, ids)
            self._state.notes.factors.setdefault(self.node.name, []).append((ids, 1.0))
        elif canonical_call(self.node.target) in PRODUCTS:
            self.tie(ids)
            self.needs_factor(_TWO_ROLES, ids)
        else:
            self.freeze(_TWO_ROLES, ids)

    def balance(self, why: str, *axes: Ids | None) -> None:
        """Mark positions as averaged over: the average stays exact if all clusters have one size."""
        self._state.marks.balanced += [Event(ids, why, self.node) for ids in axes if ids is not None]

    def needs_factor(self, why: str, *axes: Ids | None, power: float = 1.0) -> None:
        """Mark positions as summed over: the narrow sum lacks ``m ** power`` for cluster size m.

        If the rewrite cannot rescale this call, the ids freeze.
        """
        self.balance(why, *axes)
        node = self.node
        if node is None:  # the function of a stored weight stays wide
            return
        for ids in axes:
            if ids is None:
                continue
            if node.op in ("call_function", "call_method") and canonical_call(node.target) in self.factor_at:
                self._state.notes.factors.setdefault(node.name, []).append((ids, power))
            else:
                self.freeze(f"{why} inside {_target(node)}, which is kept whole", ids)

    def needs_rewrite(self, what: str, *axes: Ids | None) -> None:
        """Declare that a number in this operation depends on widths.

        If the rewrite cannot change it, the ids freeze.
        """
        if not self._state.rewritable:
            self.freeze(f"{what} inside {_target(self.node)}, which is kept whole", *axes)

    def needs_size(self, what: str, *axes: Ids | None) -> None:
        """Declare that this operation makes axes of a size that depends on widths.

        If neither the rewrite can change it nor the call that is kept whole adapts, the ids freeze.
        """
        if not self._state.rewritable:
            why = f"{what} inside {_target(self.node)}, which is kept whole"
            self._state.marks.sized += [Event(ids, why, self.node) for ids in axes if ids is not None]

    def needs_places(self, what: str, ids: Ids | None, named: Sequence[Any] = ()) -> None:
        """Declare that this call names places among channels, which the rewrite counts anew.

        If other inputs give other places, or the rewrite cannot tell the axes that it names, the ids freeze.
        ``named`` are arguments in the graph that name them beside an index.
        """
        self.needs_rewrite(what, ids)
        if why := self._state.lengths.unknown(self.node, named):
            self.freeze(f"{what} {why}", ids)

    def guard_lengths(self, dims: list[int]) -> None:
        """Declare that axes of the result only hold channels where they are as long as here."""
        if dims and self.node is not None:
            self._state.notes.guarded.setdefault(self.node.name, []).extend(dims)

    def guard_squeeze(self, dims: list[int], *axes: Ids | None) -> None:
        """Declare that a squeeze may remove other axes for other inputs: it is guarded, or freezes."""
        if not self.states_sizes:
            self.freeze(f"a squeeze that depends on an input inside {_target(self.node)}, which is kept whole", *axes)
        elif self._state.rewritable and self.node is not None:
            self._state.notes.squeezed[self.node.name] = dims

    def needs_number(self, what: str, ids: Ids | None) -> None:
        """Freeze the ids that a number in this call tells apart if it depends on an input."""
        if why := self._state.lengths.unknown(self.node):
            self.freeze(f"{what} {why}", ids)

    def needs_copy(self, tensor: torch.Tensor, ids: Ids) -> None:
        """Declare that the narrow network copies channels that are a view here.

        What is written to the copy is put back; after any other write that it would miss, the ids freeze.
        """
        self._state.strided.add(tensor, self.node, ids)

    def unify_rows(self, rows: Ids, why: str) -> Ids:
        """Unify ids [n, k] to ids [k]: position j of every row belongs to one channel.

        Returns:
            The first row.
        """
        if len(rows) > 1:
            first = np.broadcast_to(rows[0], rows[1:].shape)
            self.channels.unite(first.ravel(), rows[1:].ravel())
            self._state.marks.bundled.append(Event(rows.ravel(), why, self.node))
        return np.ascontiguousarray(rows[0])

    def choose_split(self, ids: Ids, options: int) -> int:
        """Choose one of several ways to bundle ``ids``: the first, unless this run has another."""
        return self._state.choices.take(self.node, ids, options)

    def places(self, table: torch.Tensor, ids: Ids) -> Ids | None:
        """Return the positions among ``ids`` that an index [n], or a mask, names; None if unknown.

        The narrow network has an index of its own, with the places of these channels among the kept ones.
        """
        value = (value_of(table) if _listed(self.node) is None else _listed(self.node)) if table.dim() == 1 else None
        if value is None or self.node is None or self._state.lengths.unknown(self.node):
            return None
        self._state.notes.tables.append((table, self.node, ids))
        found = value.nonzero()[:, 0] if value.dtype in MASKS else value.long()
        places: Ids = np.arange(len(ids))[found.numpy()]
        self.needs_rewrite("an index among channels", ids)
        self._state.notes.places[self.node.name] = places
        return places

    def count_macs(self, macs: int, *axes: Ids | None) -> None:
        """Count multiply-accumulates, which scale with each axis; the last is what they make."""
        if self.node is not None:
            scaled = [ids for ids in axes if ids is not None]
            self._state.notes.macs.setdefault(self.node.name, []).append((macs, scaled))


def _listed(node: fx.Node | None) -> torch.Tensor | None:
    """Return the list of numbers by which a call picks or puts values; operators get a tensor."""
    if node is None or node.target not in (operator.getitem, operator.setitem):
        return None
    items = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    lists = [item for item in items if isinstance(item, list)]
    plain = len(lists) == 1 and all(isinstance(number, int) for number in lists[0])
    return torch.tensor(lists[0]) if plain else None


def _target(node: fx.Node | None) -> str:
    if node is None:
        return "an operation"
    if isinstance(node.target, str):
        return f"`{node.target}`"
    target: Callable[..., Any] = node.target
    return f"`{getattr(target, '__name__', target)}`"
