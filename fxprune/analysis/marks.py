"""Marks are the statements of rules on ids: roles, frozen, bundled, or balanced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from .channels import Axes, Ids


@dataclass(frozen=True, eq=False)
class Event:
    """An event for ids at a node: they froze, were bundled, or must stay balanced."""

    ids: Ids
    why: str
    node: fx.Node | None


@dataclass
class Marks:
    """The marks of rules so far, and the present node.

    Attributes:
        node: the running node; None in a function that computes a stored weight, and after the last node.
        columns: positions of weights that a merge sums.
        rows: positions of parameters of which a merge keeps one.
        frozen: ids that may not merge.
        bundled: ids that became one channel for each position of their rows.
        balanced: ids that are averaged over, so that their clusters must have one size.
        sized: ids on axes that the running call made, which freeze unless it adapts to narrow inputs.
    """

    node: fx.Node | None = None
    columns: list[Ids] = field(default_factory=list)
    rows: list[Ids] = field(default_factory=list)
    frozen: list[Event] = field(default_factory=list)
    bundled: list[Event] = field(default_factory=list)
    balanced: list[Event] = field(default_factory=list)
    sized: list[Event] = field(default_factory=list)

    def freeze(self, why: str, *axes: Ids | None) -> None:
        """Freeze channels: they may not merge."""
        self.frozen += [Event(ids, why, self.node) for ids in axes if ids is not None and len(ids)]

    def make_sized(self, why: str, *axes: Ids | None) -> None:
        """Note axes that the running call makes in a size that depends on widths."""
        self.sized += [Event(ids, why, self.node) for ids in axes if ids is not None]


@dataclass(frozen=True, eq=False)
class Fork:
    """A call bundles channels in one of several ways: within heads or by complete heads."""

    key: str
    ids: Ids
    choice: int
    options: int


@dataclass
class Choices:
    """The choice of a way to bundle at each fork.

    Attributes:
        given: key of a fork -> the way to take there.
        default: the way to take at all other forks; 0: within heads and groups, 1: complete ones.
        forks: the forks so far.
    """

    given: Mapping[str, int]
    default: int
    forks: list[Fork] = field(default_factory=list)

    def take(self, node: fx.Node | None, ids: Ids, options: int) -> int:
        """Choose the way to take at the next fork of a node."""
        key = f"{node}:{sum(fork.key.startswith(f'{node}:') for fork in self.forks)}"
        choice = min(self.given.get(key, self.default), options - 1)
        self.forks.append(Fork(key, ids, choice, options))
        return choice


@dataclass
class NodeNotes:
    """The facts about nodes for the rewrite and the cost, by name.

    Attributes:
        factors: (ids, power) for each axis that is summed over.
        macs: multiply-accumulates of contractions, and the axes whose widths they scale with.
        computed_weight_users: nodes that contract a computed weight with an activation.
        places: positions that a constant index picks from an axis of channels.
        tables: these indices, with the node and the ids of the axis.
        guarded: axes of results that hold channels only where they are as long as at the analysed input.
        squeezed: axes of what a squeeze gets that it may remove, or leave, for other inputs.
        masks: nodes that are tensors of truth values: as an index, such a tensor takes as many axes as it has.
        inside: calls of a user's own code, and what operators inside make: ids on axes, and shapes, once each.
        lays_out: those of them that move, join or cut axes.
        put_back: nodes that write to a view with a step, and the node that made this view.
    """

    factors: dict[str, list[tuple[Ids, float]]] = field(default_factory=dict)
    macs: dict[str, list[tuple[int, list[Ids]]]] = field(default_factory=dict)
    computed_weight_users: set[str] = field(default_factory=set)
    places: dict[str, Ids] = field(default_factory=dict)
    tables: list[tuple[torch.Tensor, fx.Node, Ids]] = field(default_factory=list)
    guarded: dict[str, list[int]] = field(default_factory=dict)
    squeezed: dict[str, list[int]] = field(default_factory=dict)
    masks: set[str] = field(default_factory=set)
    inside: dict[str, dict[Any, tuple[Axes, tuple[int, ...]]]] = field(default_factory=dict)
    lays_out: set[str] = field(default_factory=set)
    put_back: dict[str, str] = field(default_factory=dict)

    def count_macs(self, node: fx.Node | None, macs: int, *axes: Ids | None) -> None:
        """Count multiply-accumulates, which scale with each axis; the last is what they make."""
        if node is not None:
            self.macs.setdefault(node.name, []).append((macs, [ids for ids in axes if ids is not None]))

    def guard_lengths(self, node: fx.Node | None, dims: list[int]) -> None:
        """Note axes of a result that hold channels only where they are as long as here."""
        if dims and node is not None:
            self.guarded.setdefault(node.name, []).extend(dims)
