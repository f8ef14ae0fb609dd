"""What a rule sees of one operation, and what it can say of the channels there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.common.rewritable import CallTarget, canonical_call
from fxprune.common.torch_private import OpOverload, op_arguments, op_name

from .channels import Axes, Channels, Ids
from .labels import Label, tensors_in
from .marks import Event
from .state import AnalysisState


@dataclass(frozen=True, eq=False)
class Call:
    """One ATen operation as its rule sees it: ``op`` applied to ``args``, which returned ``out``.

    A rule reads labels and arguments, and answers with six verbs: ``unify``, ``freeze``, ``tie``, ``read``, ``balance``
    and ``needs_factor``. Rules of views and convolutions also bundle (``unify_rows``, ``choose_split``) and say what
    the rewrite must do (``needs_rewrite``, ``needs_copy``). All of them accept None: an axis without channels.

    Attributes:
        op: the operator.
        args: one entry per argument of the operator's schema, defaults filled in.
        out: what it returned.
        layout: sizes and strides that the first argument had before: operations in place have changed them by now.
        factor_at: calls of the graph at which the rewrite can make up for a sum of this operator.
    """

    _state: AnalysisState
    op: OpOverload
    args: tuple[Any, ...]
    out: Any
    layout: tuple[Any, Any] | None = None
    factor_at: Set[CallTarget] = frozenset()

    @property
    def channels(self) -> Channels:
        """The algebra, for new ids."""
        return self._state.channels

    @property
    def name(self) -> str:
        """The operator's name, without library and overload."""
        return op_name(self.op).split("::")[1]

    @functools.cached_property
    def outs(self) -> list[torch.Tensor]:
        """The tensors that were returned."""
        return tensors_in(self.out)

    @property
    def node(self) -> fx.Node | None:
        """The node of the graph in which this happens; None in what computes a stored weight."""
        return self._state.marks.node

    @property
    def inside_layer(self) -> bool:
        """Whether this happens in a layer with shape attributes, which the rewrite adapts."""
        return bool(self._state.layers.inside)

    def arg(self, index: int, default: Any = None) -> Any:
        """Argument by its place in the schema, or ``default`` where it is None or absent."""
        return self.args[index] if index < len(self.args) and self.args[index] is not None else default

    def named(self, name: str) -> Any:
        """Argument by the name that the operator's schema gives it; None where it has none of this name."""
        names = [argument.name for argument in op_arguments(self.op)]
        return self.args[names.index(name)] if name in names else None

    def label(self, tensor: torch.Tensor) -> Label:
        """Label of an operand."""
        return self._state.labels.of(tensor)

    def axes(self, tensor: torch.Tensor) -> Axes:
        """Ids on the axes of an operand."""
        return self._state.labels.of(tensor).axes

    def statistic(self, tensor: torch.Tensor) -> Ids | None:
        """Ids of a running statistic [channels]; None where it is computed."""
        return self._state.origins.statistic(tensor)

    def unify(self, left: Ids | None, right: Ids | None) -> Ids | None:
        """Position by position, two axes of one length hold the same channel."""
        if left is None or right is None:
            return right if left is None else left
        self.channels.unite(left, right)
        return left

    def freeze(self, why: str, *axes: Ids | None) -> None:
        """These channels may not merge."""
        self._state.marks.freeze(why, *axes)

    def tie(self, *axes: Ids | None) -> None:
        """These positions of a parameter are rows: a merge keeps one."""
        self._state.marks.rows += [ids for ids in axes if ids is not None]

    def read(self, *axes: Ids | None) -> None:
        """These positions of a weight are columns: a merge sums them."""
        self._state.marks.columns += [ids for ids in axes if ids is not None]

    def balance(self, why: str, *axes: Ids | None) -> None:
        """An average runs over these positions: it is kept if all clusters have one size."""
        self._state.marks.balanced += [Event(ids, why, self.node) for ids in axes if ids is not None]

    def needs_factor(self, why: str, *axes: Ids | None, power: float = 1.0) -> None:
        """A sum runs over these positions: with clusters of one size m, the narrow one is too small by ``m ** power``.

        If the rewrite cannot rescale this call, the ids freeze.
        """
        self.balance(why, *axes)
        node = self.node
        if node is None:  # what computes a stored weight stays wide
            return
        for ids in axes:
            if ids is None:
                continue
            if node.op in ("call_function", "call_method") and canonical_call(node.target) in self.factor_at:
                self._state.notes.factors.setdefault(node.name, []).append((ids, power))
            else:
                self.freeze(f"{why} inside {_target(node)}, which is kept whole", ids)

    def needs_rewrite(self, what: str, *axes: Ids | None) -> None:
        """A number in this operation depends on these widths: if the rewrite cannot change it, the ids freeze."""
        if not self._state.rewritable:
            self.freeze(f"{what} inside {_target(self.node)}, which is kept whole", *axes)

    def needs_copy(self, tensor: torch.Tensor, ids: Ids) -> None:
        """The narrow network copies channels that are a view here: if they are written to later, the ids freeze."""
        self._state.strided.add(tensor, ids)

    def unify_rows(self, rows: Ids, why: str) -> Ids:
        """Ids [n, k] -> ids [k]: position j of every row belongs to one channel; the first row stands for all."""
        if len(rows) > 1:
            first = np.broadcast_to(rows[0], rows[1:].shape)
            self.channels.unite(first.ravel(), rows[1:].ravel())
            self._state.marks.bundled.append(Event(rows.ravel(), why, self.node))
        return np.ascontiguousarray(rows[0])

    def choose_split(self, ids: Ids, options: int) -> int:
        """Which of several sound ways to bundle ``ids`` to take: the first, unless this run was given another."""
        return self._state.choices.take(self.node, ids, options)

    def count_macs(self, macs: int, *axes: Ids | None) -> None:
        """Count multiply-accumulates that scale with the width of each of these axes."""
        if self.node is not None:
            scaled = [ids for ids in axes if ids is not None]
            self._state.notes.macs.setdefault(self.node.name, []).append((macs, scaled))


def unlabelled(tensor: torch.Tensor) -> Axes:
    """Axes without channels."""
    return (None,) * tensor.dim()


def _target(node: fx.Node | None) -> str:
    if node is None:
        return "an operation"
    if isinstance(node.target, str):
        return f"`{node.target}`"
    target: Callable[..., Any] = node.target
    return f"`{getattr(target, '__name__', target)}`"
