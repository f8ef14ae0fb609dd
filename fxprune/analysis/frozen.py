"""Why channels froze: the first reason of each, and a report by reason."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxprune.common.source import source_of
from fxprune.coupling import Coupling, Frozen

from .channels import Ids
from .state import Event, Walk


@dataclass(frozen=True, eq=False)
class ParameterAxis:
    """One axis of a parameter or running statistic, and the ids that it started with."""

    name: str
    dim: int
    ids: Ids

    def __str__(self) -> str:
        return f"{self.name}:{self.dim}"


class Blame:
    """The first reason why each channel froze."""

    def __init__(self, walk: Walk, events: list[Event]) -> None:
        self._walk = walk
        self._reason: NDArray[np.int64] = np.full(walk.channels.count + 1, -1)
        self._events: list[Event] = []
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Freeze the channels of an event that are not frozen yet."""
        channels = self._walk.channels.channel(event.ids)
        new = channels[self._reason[channels] < 0]
        if len(new):
            self._reason[new] = len(self._events)
            self._events.append(event)

    def frozen(self, ids: Ids) -> NDArray[np.bool_]:
        """Whether each id's channel is frozen."""
        return self._reason[self._walk.channels.channel(ids)] >= 0

    def report(self, axes: list[ParameterAxis], coupling: Coupling) -> tuple[Frozen, ...]:
        """One entry per event that froze an axis of some parameter; events without words are not told.

        Weights count where channels froze. An axis that no activation carries holds none: the planes of an image, the
        tokens of a position embedding, the rows of a table. It counts only where all axes of its parameter are such.
        """
        concerned: dict[int, list[ParameterAxis]] = defaultdict(list)
        for axis in axes:
            for reason in np.unique(self._reason[self._walk.channels.channel(axis.ids)]):
                concerned[int(reason)].append(axis)
        covered = coupling.prunable_weights
        carried = np.zeros(self._walk.channels.count + 1, bool)
        for ids in self._walk.carried.values():
            carried[self._walk.channels.channel(ids)] = True
        of_channels = {id(axis) for axis in axes if carried[self._walk.channels.channel(axis.ids)].any()}
        told = {axis.name for axis in axes if id(axis) in of_channels}
        report = []
        for reason, members in sorted(concerned.items()):
            if reason < 0 or not self._events[reason].why:
                continue
            event = self._events[reason]
            weights = sum(
                math.prod(coupling.shapes.get(name, (0,))) - covered.get(name, 0)
                for name in dict.fromkeys(a.name for a in members if id(a) in of_channels or a.name not in told)
            )
            node = event.node.name if event.node is not None else "output"
            source = source_of(event.node) if event.node is not None else "-"
            report.append(Frozen(tuple(map(str, members)), event.why, node, source, weights))
        return tuple(report)
