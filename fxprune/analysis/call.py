"""A rule answers by the methods of a call, which unify and mark channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import fx

from fxprune.pytorch.call_targets import PRODUCTS, call_kind, scales_input

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
    views and convolutions also bundle channels (``unify_rows``), and declare that the rewrite must change a number
    (``needs_rewrite``); some let an axis of equal numbers stand for channels (``met``). All accept None: an axis
    without channels.

    Attributes:
        woken: identities of the ids that waited before this call, and do so no longer.
    """

    woken: set[int] = field(default_factory=set)

    def met(self, ids: Ids | None, label: Label, dim: int) -> Ids | None:
        """Return the ids on an axis that meets ``ids``: if it waits, it waits no longer."""
        found = self.state.labels.met(ids, label, dim)
        self.woken.add(id(found))
        return found

    def unify(self, left: Ids | None, right: Ids | None) -> Ids | None:
        """Unify two axes of one length: position by position, they hold the same channel."""
        if left is None or right is None:
            return right if left is None else left
        self.channels.unite(left, right)
        return left

    def freeze(self, why: str, *axes: Ids | None) -> None:
        """Freeze channels: they may not merge."""
        self.state.marks.freeze(why, *axes)

    def tie(self, *axes: Ids | None) -> None:
        """Mark positions of a parameter as rows: a merge keeps one per cluster."""
        self.state.marks.rows += [ids for ids in axes if ids is not None]

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
        elif not self.state.origins.has_two_roles(ids):
            self.state.marks.columns.append(ids)
        elif scales_input(self.node) and self.is_given(of):
            self.tie(ids)
            self.balance(_TWO_ROLES, ids)
            self.state.notes.factors.setdefault(self.node.name, []).append((ids, 1.0))
        elif call_kind(self.node) in PRODUCTS:
            self.tie(ids)
            self.needs_factor(_TWO_ROLES, ids)
        else:
            self.freeze(_TWO_ROLES, ids)

    def balance(self, why: str, *axes: Ids | None) -> None:
        """Mark positions as averaged over: the average stays exact if all clusters have one size."""
        self.state.marks.balanced += [Event(ids, why, self.node) for ids in axes if ids is not None]

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
            if node.op in ("call_function", "call_method") and call_kind(node) in self.factor_at:
                self.state.notes.factors.setdefault(node.name, []).append((ids, power))
            else:
                self.freeze(inside_call(why, node), ids)

    def needs_rewrite(self, what: str, *axes: Ids | None) -> None:
        """Declare that a number in this operation depends on widths.

        If the rewrite cannot change it, the ids freeze.
        """
        if not self.state.rewritable:
            self.freeze(inside_call(what, self.node), *axes)

    def unify_rows(self, rows: Ids, why: str) -> Ids:
        """Unify ids [n, k] to ids [k]: position j of every row belongs to one channel.

        Returns:
            The first row.
        """
        if len(rows) > 1:
            first = np.broadcast_to(rows[0], rows[1:].shape)
            self.channels.unite(first.ravel(), rows[1:].ravel())
            self.state.marks.bundled.append(Event(rows.ravel(), why, self.node))
        return np.ascontiguousarray(rows[0])


def inside_call(what: str, node: fx.Node | None) -> str:
    """Say that something happens inside a call that the rewrite keeps as it is."""
    if node is None:
        return f"{what} inside an operation, which is kept whole"
    return f"{what} inside `{called(node)}`, which is kept whole"


def called(node: fx.Node) -> str:
    """Name the layer, method or function that a node calls."""
    target: Any = node.target
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))
