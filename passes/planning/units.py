"""Groups whose widths depend on each other, and the widths that they can have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from fxprune.coupling import Coupling, Group
from fxprune.errors import NothingToPruneError, OptionError, PlanError


@dataclass(frozen=True, eq=False)
class Unit:
    """Groups whose widths depend on each other: one group, or all groups of a domain.

    Attributes:
        groups: n groups.
        widths: int64 [choices, n], ascending; every row is a set of widths that the groups may have.
    """

    groups: tuple[Group, ...]
    widths: NDArray[np.int64]

    def nearest(self, keep: float) -> dict[str, int]:
        """Return the choice nearest to the share ``keep``; of two equally near ones, the wider."""
        # Distances are ratios: if 19 channels can only stay or become 1, a half is nearer to 19.
        distance = np.abs(np.log(self.widths[:, 0] / (keep * self.groups[0].width)))
        return self.choice(len(distance) - 1 - int(distance[::-1].argmin()))

    def neighbours(self, widths: Mapping[str, int]) -> list[dict[str, int]]:
        """Return the choices next to the one in ``widths``, at most two."""
        here = int(self.widths[:, 0].searchsorted(widths[self.groups[0].name]))
        return [self.choice(row) for row in (here - 1, here + 1) if 0 <= row < len(self.widths)]

    def choice(self, row: int) -> dict[str, int]:
        """Map each group name to its width in one choice."""
        return {group.name: int(width) for group, width in zip(self.groups, self.widths[row], strict=True)}


def units_of(coupling: Coupling, round_to: int, selected: Set[str] | None = None) -> list[Unit]:
    """Collect the selected groups by domain; no domain is selected in part."""
    if not is_count(round_to):
        raise OptionError(f"`round_to` must be 1 or more, not {round_to!r}.")
    if not coupling.groups:
        raise NothingToPruneError(_why_nothing(coupling))
    return [_unit(groups, round_to) for groups in coupling.domains if selected is None or groups[0].name in selected]


def _unit(groups: tuple[Group, ...], round_to: int) -> Unit:
    full = np.array([group.width for group in groups])
    if groups[0].balanced:
        common = math.gcd(*full.tolist())
        widths = np.stack([full // size for size in range(common, 0, -1) if common % size == 0])
    else:
        widths = np.arange(1, full[0] + 1)[:, None]
    occurrences = np.array([(*group.tied, *group.readers)[0].positions.shape[1] for group in groups])
    lengths = widths * occurrences
    good = (lengths % round_to == 0).all(axis=1)
    if not good.any():  # a block in part costs as much as a full one: of equally many, the widest
        blocks = -(-lengths // round_to)
        good = np.r_[(blocks[1:] > blocks[:-1]).any(axis=1), True]
    return Unit(groups, widths[good])


def _why_nothing(coupling: Coupling) -> str:
    counts: dict[str, int] = {}
    for frozen in coupling.frozen:
        counts[frozen.why] = counts.get(frozen.why, 0) + 1
    reasons = "; ".join(f"{n} x {why}" for why, n in sorted(counts.items(), key=lambda item: -item[1]))
    return f"no two channels of this network may merge. Frozen: {reasons or 'nothing, it has no weights'}."


def is_count(value: object) -> bool:
    """Tell whether a value is a whole number of at least 1."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def check_width(unit: Unit, index: int, width: int) -> None:
    """Raise PlanError unless a group of a unit can have this width."""
    group, reachable = unit.groups[index], unit.widths[:, index]
    if is_count(width) and width in reachable:
        return
    if not group.balanced:
        raise PlanError(f"group `{group.name}` can have 1 to {group.width} channels, not {width!r}.")
    shown = ", ".join(map(str, reachable))
    raise PlanError(
        f"group `{group.name}` needs clusters of one size, common to all groups under the same normalisation: it can "
        f"have {shown} channels, not {width}."
    )
