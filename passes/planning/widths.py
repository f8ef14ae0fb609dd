"""Choose the width of each group: by a share of channels, by a budget, or as given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence, Set
from numbers import Real
from typing import Any

import numpy as np

from fxprune.common.choices import closest_names
from fxprune.costs import Budget, CostTerms, cost, cost_terms
from fxprune.coupling import Coupling
from fxprune.errors import OptionError, PlanError
from fxprune.latencies import CLOSE, LatencyTable

from .units import Unit, check_width, units_of

# As shares of the budget: the error that the user is promised, and the one at which the search fails.
WITHIN, AT_MOST = 0.01, 0.25
# If no single step comes nearer, pairs are tried, for up to so many steps; larger networks rarely need pairs.
_MOST_PAIRED = 64
# Units that are held while others are bisected: each doubles the work.
_MOST_HELD = 4


def widths_for(coupling: Coupling, keep: float, round_to: int = 1, selected: Set[str] | None = None) -> dict[str, int]:
    """Give each group the possible width nearest to keep * width.

    A balanced group can have width / m for every m that divides all widths of its domain. With ``round_to``, the
    width times the occurrences on the group's first tied axis is a multiple of it; a group that can have no multiple
    is narrowed only where that saves a whole block.

    Args:
        coupling: the analysis.
        keep: share of the channels to keep, above 0, up to 1.
        round_to: 1 and more.
        selected: names of the groups that may become narrower; None: all.

    Returns:
        Group name -> width, from 1 to the present one.

    Raises:
        NothingToPruneError: the coupling has no groups.
        OptionError: ``keep`` or ``round_to`` outside its range.
    """
    return _widths_at(units_of(coupling, round_to, selected), as_share("keep", keep))


def check_near(coupling: Coupling, keep: float, widths: Mapping[str, int], round_to: int) -> None:
    """Raise OptionError if no group comes within a factor of 2 of ``keep``, or none is narrower."""
    shares = [width / coupling.groups[name].width for name, width in widths.items()]
    nearest = min(shares, key=lambda share: abs(math.log(share / keep)), default=keep)
    if not 0.5 <= nearest / keep <= 2.0 or (keep < 1.0 and min(shares, default=1.0) == 1.0):
        blocks = f" in blocks of {round_to}" if round_to > 1 else ""
        raise OptionError(
            f"`keep` {keep:g} is out of reach: of the shares of its channels that any group can have{blocks}, the "
            f"nearest is {nearest:.4g}. Ask for a share that some group can have, or for single `widths`."
        )


def widths_within(
    coupling: Coupling, budget: Budget, share: float, round_to: int = 1, selected: Set[str] | None = None
) -> tuple[dict[str, int], str]:
    """cost(widths) = share * cost(network) within 1 %, else the nearest, with one ``keep``.

    A bisection finds the two nearest values of ``keep``. Between these, groups change from one to the other one by one.
    If one step leads past the budget, as of a residual stream that can only halve, it is taken or not, and the others
    are bisected again: the plan is taken whose narrowest group keeps most. If that is not near enough, single groups
    become one step wider or narrower as long as that helps.

    Returns:
        Group name -> width, and a text that says which share was reached, and whether it is only the nearest one.

    Raises:
        NothingToPruneError: the coupling has no groups.
        OptionError: ``share`` or ``round_to`` outside its range, or the nearest reachable share is off by a quarter.
    """
    share = as_share(budget, share)
    units = units_of(coupling, round_to, selected)
    above = excess(coupling, cost_terms(coupling, budget).by_group(coupling), budget, share)
    return refined(units, _with_one_keep(units, above, WITHIN * share), above, budget, share)


def widths_near(coupling: Coupling, macs: float, round_to: int = 1, selected: Set[str] | None = None) -> dict[str, int]:
    """Return the widths nearest to a share of the MACs, however far off they are."""
    units = units_of(coupling, round_to, selected)
    above = excess(coupling, cost_terms(coupling, "macs").by_group(coupling), "macs", macs)
    return _moved(units, _with_one_keep(units, above, WITHIN * macs), above, WITHIN * macs)


def narrowest(coupling: Coupling, round_to: int = 1, selected: Set[str] | None = None) -> dict[str, int]:
    """Give each selected group its least width; arguments as of :func:`widths_for`."""
    widths: dict[str, int] = {}
    for unit in units_of(coupling, round_to, selected):
        widths |= unit.choice(0)
    return widths


def widths_in_time(
    coupling: Coupling, table: LatencyTable, share: float, round_to: int = 1, selected: Set[str] | None = None
) -> tuple[dict[str, int], str]:
    """time(widths) = share * time(network), by the MACs that take that time in a table.

    Where no widths have these MACs, those are taken whose time is nearest.

    Returns:
        As :func:`widths_within`.

    Raises:
        OptionError: ``share`` or ``round_to`` outside its range; the table has no time so short; or the nearest
            reachable time is off by a quarter, or that of the wide network.
    """
    share = as_share("latency", share)
    units = units_of(coupling, round_to, selected)
    macs_of = excess(coupling, cost_terms(coupling, "macs").by_group(coupling), "macs", 0.0)
    widths = widths_near(coupling, table.macs_for(share), round_to, selected)
    widths = _moved(units, widths, lambda each: table.time_at(macs_of(each)) - share, CLOSE * share)
    macs = macs_of(widths)
    time = table.time_at(macs)
    if abs(time - share) > AT_MOST * share or (share < 1.0 and _unchanged(units, widths)):
        raise OptionError(
            f"a share of {share:g} of the time in {table.runtime} is out of reach: the nearest that groups can come to "
            f"is {time:.4g}. Ask for what can be had to within {AT_MOST:.0%}, or let more groups get narrow."
        )
    near = "predicted" if abs(time - share) <= CLOSE * share else "nearest reachable"
    return widths, f"latency {share:g}, {near} {time:.4f} in {table.runtime} at batch {table.batch}, macs {macs:.4f}"


def excess(coupling: Coupling, terms: CostTerms, budget: Budget, share: float) -> Callable[[Mapping[str, int]], float]:
    """Return the function above(widths) = cost(widths) / cost(network) - share."""
    total: int = getattr(cost(coupling), budget)

    def above(widths: Mapping[str, int]) -> float:
        shares = [widths.get(group.name, group.width) / group.width for group in coupling.groups.values()]
        return round(terms.value(np.array([*shares, 1.0]))) / total - share

    return above


def refined(
    units: Sequence[Unit],
    widths: dict[str, int],
    above: Callable[[Mapping[str, int]], float],
    budget: Budget,
    share: float,
) -> tuple[dict[str, int], str]:
    """Move one or two units a step while the budget is missed by more than 1 % and it helps.

    Returns:
        Group name -> width, and a text that says which share was reached.

    Raises:
        OptionError: the nearest reachable share is off by more than a quarter of the goal, or changes no width.
    """
    widths = _moved(units, widths, above, WITHIN * share)
    reached, miss = above(widths) + share, abs(above(widths))
    if miss > AT_MOST * share or (miss > WITHIN * share and _unchanged(units, widths)):
        raise OptionError(
            f"a share of {share:g} of the network's `{budget}` is out of reach: the nearest that groups can come to "
            f"is {reached:.4g}. Ask for what can be had to within {AT_MOST:.0%}, or let more groups get narrow."
        )
    near = "reached" if miss <= WITHIN * share else "nearest reachable"
    return widths, f"{budget} {share:g}, {near} {reached:.4f}"


def _unchanged(units: Sequence[Unit], widths: Mapping[str, int]) -> bool:
    return all(widths[group.name] == group.width for unit in units for group in unit.groups)


def _with_one_keep(units: Sequence[Unit], above: Callable[[Mapping[str, int]], float], enough: float) -> dict[str, int]:
    """Bisect over one ``keep``; hold a unit whose step leads past the budget at either end.

    Of equally near widths, those are taken whose narrowest group keeps the largest share.
    """
    full = {group.name: group.width for unit in units for group in unit.groups}

    def rank(widths: Mapping[str, int]) -> tuple[float, list[float]]:
        return max(abs(above(widths)), enough), sorted((-widths[name] / full[name] for name in full), reverse=True)

    def bisected(free: Sequence[Unit], held: dict[str, int]) -> dict[str, int]:
        low, high = 1e-9, 1.0
        for _ in range(30):  # narrower than any two widths lie apart
            keep = (low + high) / 2
            low, high = (low, keep) if above(held | _widths_at(free, keep)) > 0 else (keep, high)
        widths = [held | _widths_at(free, low)]
        for unit in free:
            widths.append(widths[-1] | unit.nearest(high))
            if above(widths[-2]) < -enough and above(widths[-1]) > enough and len(units) - len(free) < _MOST_HELD:
                rest = [each for each in free if each is not unit]
                ends = [held | {group.name: end[group.name] for group in unit.groups} for end in widths[-2:]]
                return min((bisected(rest, end) for end in ends), key=rank)
        return min(widths, key=lambda each: abs(above(each)))

    return bisected(units, {})


def _moved(
    units: Sequence[Unit], widths: dict[str, int], above: Callable[[Mapping[str, int]], float], enough: float
) -> dict[str, int]:
    """Move one or two units a step while ``above`` is too far from 0 and that helps."""

    def miss(widths: Mapping[str, int]) -> float:
        return abs(above(widths))

    while miss(widths) > enough:
        steps = [step for unit in units for step in unit.neighbours(widths)]
        nearest = min((widths | step for step in steps), key=miss, default=widths)
        if miss(nearest) >= miss(widths) and len(steps) <= _MOST_PAIRED:
            pairs = itertools.combinations(steps, 2)
            nearest = min((widths | one | other for one, other in pairs), key=miss, default=widths)
        if miss(nearest) >= miss(widths):
            break
        widths = nearest
    return widths


def widths_given(coupling: Coupling, widths: Mapping[str, int]) -> dict[str, int]:
    """Take the widths that the user gives; the other groups of a domain follow.

    Groups of all other domains keep their widths.

    Raises:
        NothingToPruneError: the coupling has no groups.
        PlanError: a group that does not exist, a width that it cannot have, or widths that do not go together.
    """
    units = units_of(coupling, 1)
    if not isinstance(widths, Mapping):
        raise OptionError(f"`widths` maps names of groups to channels, not {widths!r}.")
    for name in widths:
        if name not in coupling.groups:
            near = closest_names(name, coupling.groups)
            raise PlanError(f"there is no group `{name}`; the closest names are {near}.")
    given: dict[str, int] = {}
    for unit in units:
        asked = {i: widths[group.name] for i, group in enumerate(unit.groups) if group.name in widths}
        if not asked:
            continue
        for i, width in asked.items():
            check_width(unit, i, width)
        fits = np.all([unit.widths[:, i] == width for i, width in asked.items()], axis=0)
        if not fits.any():
            shown = ", ".join(f"`{unit.groups[i].name}` {unit.groups[i].width} -> {n}" for i, n in asked.items())
            raise PlanError(f"groups under one normalisation need clusters of one common size, unlike {shown}.")
        given |= {group.name: int(n) for group, n in zip(unit.groups, unit.widths[fits][0], strict=True)}
    return given


def as_share(name: str, share: Any) -> float:
    """Return a real number above 0 and up to 1 as a float; raise OptionError for others."""
    if isinstance(share, bool) or not isinstance(share, Real) or not 0.0 < float(share) <= 1.0:
        raise OptionError(f"`{name}` is a share above 0 and up to 1, not {share!r}.")
    return float(share)


def _widths_at(units: Sequence[Unit], keep: float) -> dict[str, int]:
    return {name: width for unit in units for name, width in unit.nearest(keep).items()}
