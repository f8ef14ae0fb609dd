"""Name the groups, give their channels codes, and replace ids by codes everywhere."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fxprune.coupling import Axis, Group
from fxprune.node_facts import Codes, NodeFacts, Shape, Work
from fxprune.pytorch.torch_private import pytree

from ..channels import Channels, Ids, values_in
from ..labels import Label, is_labelled
from ..marks import NodeNotes
from .reasons import ParameterAxis


class _Use(NamedTuple):
    """The positions of the channels of one group on one axis."""

    axis: ParameterAxis
    positions: Ids
    channels: Ids
    reads: bool


class Coding:
    """The groups by name, and the codes of their channels; all other channels have code -1.

    Attributes:
        groups: name -> group, in the order of their first tied parameter.
    """

    def __init__(
        self,
        channels: Channels,
        axes: list[ParameterAxis],
        members: list[Ids],
        domains: Mapping[int, int],
        columns: NDArray[np.bool_],
    ) -> None:
        """Name groups, give their channels codes, and find their positions on every axis."""
        self._channels = channels
        # Nodes share vectors of ids: by identity, the ids, their codes, and whether their axis may vary.
        self._known: dict[int, tuple[Ids, Codes, bool]] = {}
        self._code: Codes = np.full(channels.count, -1)
        self.groups: dict[str, Group] = {}
        offset = 0
        for index, uses in _uses(channels, axes, members, columns):
            made = next(use for use in uses if not use.reads)
            _, start = np.unique(made.channels, return_index=True)
            inside = made.channels[np.sort(start)]
            self._code[inside] = offset + np.arange(len(inside))
            placed = [
                (Axis(use.axis.name, use.axis.dim, _positions(use.positions, self._code[use.channels])), use.reads)
                for use in uses
            ]
            name = _free_name(made.axis.name, self.groups)
            self.groups[name] = Group(
                name,
                len(inside),
                tuple(axis for axis, reads in placed if not reads),
                tuple(axis for axis, reads in placed if reads),
                domains.get(index, -1),
                offset,
            )
            offset += len(inside)

    def of(self, ids: Ids) -> Codes:
        """Return the code of each id's channel."""
        return self._of(ids)[1]

    def _of(self, ids: Ids) -> tuple[Ids, Codes, bool]:
        if id(ids) not in self._known:
            codes = self._code[self._channels.channel(ids)]
            self._known[id(ids)] = ids, codes, not self._channels.alone(ids)
        return self._known[id(ids)]

    def shapes(self, value: Any) -> Any:
        """Replace each (sizes, label) in a nest by a Shape of codes."""
        if is_labelled(value):
            return self._shape(value)
        return pytree.tree_map(
            lambda leaf: self._shape(leaf) if is_labelled(leaf) else leaf, value, is_leaf=is_labelled
        )

    def facts(self, values: Mapping[str, Any], notes: NodeNotes) -> dict[str, NodeFacts]:
        """Collect the facts about each node."""
        return {
            name: NodeFacts(
                self.shapes(value),
                tuple((self.of(ids), power) for ids, power in notes.factors.get(name, ())),
                tuple(Work(macs, tuple(map(self.of, on))) for macs, on in notes.macs.get(name, ())),
                notes.places.get(name),
                tuple(notes.guarded.get(name, ())),
                tuple(notes.squeezed.get(name, ())),
                name in notes.masks,
                put_back=notes.put_back.get(name, ""),
            )
            for name, value in values.items()
        }

    def _shape(self, pair: tuple[torch.Size, Label]) -> Shape:
        sizes, label = pair
        varying = tuple(dim for dim, ids in enumerate(label.axes) if ids is not None and self._of(ids)[2])
        return Shape(tuple(sizes), tuple(self._codes(label, dim) for dim in range(len(sizes))), varying)

    def _codes(self, label: Label, dim: int) -> Codes | None:
        ids, waiting = label.axes[dim], label.waiting(dim)
        if ids is not None:
            return self.of(ids)
        # Ids that wait have no code unless they met channels.
        return None if waiting is None or (self.of(waiting) < 0).all() else self.of(waiting)


def owners(channels: Channels, members: list[Ids]) -> NDArray[np.int64]:
    """Map each channel to the number of its group, or -1."""
    owner: NDArray[np.int64] = np.full(channels.count, -1)
    for index, inside in enumerate(members):
        owner[inside] = index
    return owner


def _uses(
    channels: Channels, axes: list[ParameterAxis], members: list[Ids], columns: NDArray[np.bool_]
) -> list[tuple[int, list[_Use]]]:
    """List the number and uses of each group, in the order of the first axis that makes it."""
    owner = owners(channels, members)
    uses: dict[int, list[_Use]] = defaultdict(list)
    first: dict[int, tuple[int, int]] = {}
    for at, axis in enumerate(axes):
        channel = channels.channel(axis.ids)
        on = owner[channel]
        for index in values_in(on[on >= 0]):
            positions = np.flatnonzero(on == index)
            reads = bool(columns[axis.ids[positions[0]]])
            uses[index].append(_Use(axis, positions, channel[positions], reads))
            if not reads:
                first.setdefault(index, (at, int(positions[0])))
    return [(index, uses[index]) for index in sorted(uses, key=first.__getitem__)]


def _positions(at: Ids, codes: Codes) -> Ids:
    """Reorder positions [n * occurrences] to [n, occurrences], with channels in order of codes."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    return at[order].reshape(1 + int((ordered[1:] != ordered[:-1]).sum()), -1)


def _free_name(name: str, taken: Mapping[str, Group]) -> str:
    if name not in taken:
        return name
    return next(other for n in itertools.count(2) if (other := f"{name}#{n}") not in taken)
