"""What a rule sees of one operation, and what it can say of the channels there."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.common.rewritable import Target, kind_of

from .channels import Channels, Ids
from .state import Axes, Event, Fork, Label, Walk


@dataclass(frozen=True, eq=False)
class Call:
    """One ATen operation as its rule sees it: ``op`` applied to ``args``, which returned ``out``.

    ``args`` has one entry per argument of the operator's schema, defaults filled in. ``layout`` holds the sizes and
    strides that the first argument had before: operations in place have changed them by the time the rule runs.
    """

    walk: Walk
    op: torch._ops.OpOverload
    args: tuple[Any, ...]
    out: Any
    layout: tuple[Any, Any] | None = None

    @property
    def channels(self) -> Channels:
        """The algebra."""
        return self.walk.channels

    def arg(self, index: int, default: Any = None) -> Any:
        """Argument by its place in the schema, or ``default`` where it is None or absent."""
        return self.args[index] if index < len(self.args) and self.args[index] is not None else default

    def takes(self, name: str) -> bool:
        """Whether the operator has an argument of this name."""
        return any(argument.name == name for argument in self.op._schema.arguments)

    def named(self, name: str) -> Any:
        """Argument by the name that the operator's schema gives it."""
        return self.args[[argument.name for argument in self.op._schema.arguments].index(name)]

    def label(self, tensor: torch.Tensor) -> Label:
        """Label of an operand."""
        return self.walk.label_of(tensor)

    def axes(self, tensor: torch.Tensor) -> Axes:
        """Ids on the axes of an operand."""
        return self.walk.label_of(tensor).axes

    def freeze(self, ids: Ids | None, why: str) -> None:
        """These channels may not merge."""
        self.walk.freeze(ids, why)

    def same(self, left: Ids | None, right: Ids | None) -> Ids | None:
        """Tie two axes of one length position by position; an axis without channels ties nothing."""
        if left is None or right is None:
            return right if left is None else left
        self.channels.unite(left, right)
        return left

    def bundle(self, rows: Ids, why: str) -> Ids:
        """Ids [n, k] -> ids [k]: position j of every row belongs to one channel; the first row stands for all."""
        if len(rows) > 1:
            first = np.broadcast_to(rows[0], rows[1:].shape)
            self.channels.unite(first.ravel(), rows[1:].ravel())
            self.walk.bundles.append(Event(rows.ravel(), why, self.walk.node))
        return np.ascontiguousarray(rows[0])

    def balance(self, ids: Ids | None, why: str) -> None:
        """An average runs over these positions: it is kept if all clusters have one size."""
        if ids is not None:
            self.walk.balances.append(Event(ids, why, self.walk.node))

    def scale(self, ids: Ids | None, why: str, calls: Set[Target], power: float = 1.0) -> None:
        """A sum runs over these positions: with clusters of one size m, the narrow one is too small by ``m ** power``.

        Only at some calls of the graph does the rewrite know how to make up for that; at all others the ids freeze.
        """
        node = self.walk.node
        if ids is None:
            return
        self.balance(ids, why)
        if node is None:  # what computes a stored weight stays wide
            return
        if node.op in ("call_function", "call_method") and kind_of(node.target) in calls:
            self.walk.products.setdefault(node.name, []).append((ids, power))
        else:
            self.freeze(ids, f"{why} inside {_target(node)}, which is kept whole")

    def literal(self, ids: Ids | None, what: str) -> None:
        """The operation depends on a number that only the rewrite could change: out of its reach, the ids freeze."""
        if ids is not None and not self.walk.rewritable:
            self.freeze(ids, f"{what} inside {_target(self.walk.node)}, which is kept whole")

    def weigh(self, label: Label) -> None:
        """A weight is contracted with an activation; where it is computed, that is noted, so that it can be folded."""
        if label.parametric and not label.raw and self.walk.node is not None:
            self.walk.weighers.add(self.walk.node.name)

    def choose(self, ids: Ids, options: int) -> int:
        """Which of several sound ways to bundle ``ids`` to take: the first, unless the walk was told another."""
        name = str(self.walk.node)
        key = f"{name}:{sum(fork.key.startswith(name + ':') for fork in self.walk.forks)}"
        choice = min(self.walk.choices.get(key, self.walk.first_choice), options - 1)
        self.walk.forks.append(Fork(key, ids, choice, options))
        return choice

    def read(self, ids: Ids | None) -> None:
        """These positions of a weight are columns: a merge sums them."""
        if ids is not None:
            self.walk.read.append(ids)

    def tie(self, ids: Ids | None) -> None:
        """These positions of a parameter are rows: a merge keeps one."""
        if ids is not None:
            self.walk.tied.append(ids)

    def work(self, macs: int, *axes: Ids | None) -> None:
        """Count multiply-accumulates that scale with the width of each of these axes."""
        if self.walk.node is not None:
            self.walk.works.setdefault(self.walk.node.name, []).append((macs, [a for a in axes if a is not None]))


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
