"""Record the first reason why each channel froze, and report by reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxprune.coupling import Frozen
from fxprune.pytorch.source import source_of

from ..channels import Channels, Ids, values_in
from ..marks import Event


@dataclass(frozen=True, eq=False)
class ParameterAxis:
    """One axis of a parameter or running statistic, and its initial ids."""

    name: str
    dim: int
    ids: Ids

    def __str__(self) -> str:
        return f"{self.name}:{self.dim}"


class FrozenReasons:
    """The first reason why each channel froze."""

    def __init__(self, channels: Channels, events: list[Event]) -> None:
        self._channels = channels
        self._reason: NDArray[np.int64] = np.full(channels.count + 1, -1)
        self._events: list[Event] = []
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Freeze the channels of an event that are not yet frozen."""
        channels = self._channels.channel(event.ids)
        new = channels[self._reason[channels] < 0]
        if len(new):
            self._reason[new] = len(self._events)
            self._events.append(event)

    def frozen(self, ids: Ids) -> NDArray[np.bool_]:
        """Tell for each id whether its channel is frozen."""
        return self._reason[self._channels.channel(ids)] >= 0

    def report(self, axes: list[ParameterAxis], carried: list[Ids], wide: Mapping[str, int]) -> tuple[Frozen, ...]:
        """Report each event that froze an axis of a parameter; events without a text are skipped.

        An axis that no activation carries has no channels: the planes of an image, the tokens of a position embedding,
        the rows of a table. The weights of a parameter count for such an axis only if all its axes are such.

        Args:
            axes: of all parameters and running statistics.
            carried: ids on the axes of activations.
            wide: name of a parameter or buffer -> number of its weights that no group narrows.
        """
        concerned: dict[int, list[ParameterAxis]] = defaultdict(list)
        for axis in axes:
            for reason in values_in(self._reason[self._channels.channel(axis.ids)]):
                concerned[reason].append(axis)
        is_carried = np.zeros(self._channels.count + 1, bool)
        for ids in carried:
            is_carried[self._channels.channel(ids)] = True
        of_channels = {id(axis) for axis in axes if is_carried[self._channels.channel(axis.ids)].any()}
        with_channels = {axis.name for axis in axes if id(axis) in of_channels}
        report = []
        for reason, members in sorted(concerned.items()):
            if reason < 0 or not self._events[reason].why:
                continue
            event = self._events[reason]
            counted = dict.fromkeys(a.name for a in members if id(a) in of_channels or a.name not in with_channels)
            node = event.node.name if event.node is not None else "output"
            source = source_of(event.node) if event.node is not None else "-"
            weights = sum(wide.get(name, 0) for name in counted)
            report.append(Frozen(tuple(map(str, members)), event.why, node, source, weights))
        return tuple(report)
