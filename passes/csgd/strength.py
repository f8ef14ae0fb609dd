"""Find the strength that ends at a deviation, from the present deviation and its momentum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.optim import Optimizer

from fxprune.passes.merge import doubled, on_device, project

from .law import Motion, momentum_of, solve_coupled_strength, solve_strength
from .tied import Tied


@dataclass(frozen=True)
class Start:
    """A tied axis before the pull: each row is its cluster mean plus a deviation that shrinks.

    Attributes:
        group: index in optimizer.param_groups.
        largest: max_i |deviation_i|.
        means: sqrt(mean_i |mean_i|^2), which training changes, but the pull does not.
        away: sqrt(mean_i |deviation_i|^2).
    """

    group: int
    largest: float
    means: float
    away: float

    def deviation(self, left: float) -> float:
        """Return the relative deviation (:meth:`Csgd.deviation`) at a remaining absolute share."""
        return left * self.largest / math.hypot(self.means, left * self.away) if self.largest else 0.0

    def left_at(self, deviation: float) -> float:
        """Return the remaining absolute share, at most 1, at which the relative deviation is this."""
        if self.deviation(1.0) <= deviation:
            return 1.0
        return deviation * self.means / math.sqrt(self.largest**2 - (deviation * self.away) ** 2)


def starts_of(tied: Sequence[Tied]) -> list[Start]:
    """Measure every tied axis."""
    return [start for each in tied for start in _starts(each)]


def _starts(tied: Tied) -> Iterator[Start]:
    value = doubled(tied.parameter.detach())
    for partition in tied.partitions:
        mean = project(value, [on_device(partition, value.device)])
        others = [axis for axis in range(value.dim()) if axis != partition.dim]
        away, means = (x.sum(others) if others else x for x in ((value - mean).abs().square(), mean.abs().square()))
        sizes = (float(x.sqrt()) for x in (away.max(), means.mean(), away.mean()))
        largest, size, rest = sizes
        # If the means happen to cancel, as those of a few biases may, no pull makes rows equal relative to them.
        yield Start(tied.group, largest, max(size, 0.1 * rest), rest)


def motions_at_start(optimizer: Optimizer, tied: Sequence[Tied]) -> list[Motion]:
    """Return the motion of each parameter group before the first step.

    SGD treats its first step specially (``fresh``) only while it has no momentum buffer.
    """
    motions = []
    for group in range(len(optimizer.param_groups)):
        states = [optimizer.state.get(each.parameter, {}) for each in tied if each.group == group]
        motions.append(Motion(fresh=all(state.get("momentum_buffer") is None for state in states)))
    return motions


def strength_for(
    deviation: float, lrs: Sequence[float], optimizer: Optimizer, tied: Sequence[Tied], motions: Sequence[Motion] | None
) -> float:
    """Solve for the strength that ends at a deviation: the largest that a parameter group needs.

    Args:
        deviation: largest relative one, in units of the means' present size.
        lrs: learning rate of every step to come.
        optimizer: takes the steps.
        tied: what the plan makes equal.
        motions: in the coupled form, deviation and momentum of each parameter group; None: decoupled.

    Raises:
        OptionError: no strength reaches it.
    """
    lefts: dict[int, float] = {}
    for start in starts_of(tied):
        if start.largest:
            lefts[start.group] = min(lefts.get(start.group, 1.0), start.left_at(deviation))
    if motions is None:
        return solve_strength(lrs, min(lefts.values())) if lefts else 0.0
    options = {group: momentum_of(optimizer.param_groups[group]) for group in lefts}
    solved = (solve_coupled_strength(lrs, left, options[group], motions[group]) for group, left in lefts.items())
    return max(solved, default=0.0)
