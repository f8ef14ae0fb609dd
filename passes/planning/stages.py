"""Narrow in stages: each stage starts from the narrow network of the stage before.

Group names are those of the first network::

    for widths in stage_widths(coupling, [goal.widths for goal in goals]):
        plan = stage_plan(couple(model, inputs), widths, widths of the stage before)
        ...                                 # C-SGD on model
        model = narrow(model, plan)         # its groups have the same names
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fxprune.composition import composed
from fxprune.coupling import Coupling, Group
from fxprune.errors import PlanError
from fxprune.plans import Plan

from .plan import plan
from .units import Unit, units_of

# The official recipe goes over 13/16 and 11/16 to 5/8: it removes one half, then a third, then a sixth of the total.
REMOVED = (1 / 2, 5 / 6, 1.0)


def stage_shares(goal: float) -> tuple[float, ...]:
    """Return the share that stays after each stage: 5/8 gives 13/16, 11/16, 5/8."""
    return tuple(1.0 - (1.0 - goal) * gone for gone in REMOVED)


def stage_widths(coupling: Coupling, goals: Sequence[Mapping[str, int]], round_to: int = 1) -> list[dict[str, int]]:
    """Return the widths of every group after each stage; no stage widens a group.

    The last widths are those of the last goal. Before that, each group gets the width nearest to its goal from which
    the next stage can be reached: a balanced group must keep a multiple of its next width. Stages that would change
    nothing are left out.

    Args:
        coupling: the analysis of the first network.
        goals: group name -> width, for each stage; a group that is missing keeps its width.
        round_to: widths before the last are multiples of this, if a group can have such a width.

    Returns:
        Group name -> width, for each stage that changes something.
    """
    full = {name: group.width for name, group in coupling.groups.items()}
    stages = [full | dict(goals[-1])]
    units = units_of(coupling, round_to)
    for goal in reversed(goals[:-1]):
        widths: dict[str, int] = {}
        for unit in units:
            widths |= _before(unit, full | dict(goal), stages[0])
        stages.insert(0, widths)
    return [widths for before, widths in zip([full, *stages], stages, strict=False) if widths != before]


def _before(unit: Unit, wanted: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return the choice nearest to the wanted widths from which ``after`` can be reached."""
    names = [group.name for group in unit.groups]
    end = np.array([after[name] for name in names])
    choices = unit.widths[(unit.widths >= end).all(axis=1)]
    if unit.groups[0].balanced:
        choices = choices[(choices % end == 0).all(axis=1)]
    if not len(choices):
        return dict(zip(names, map(int, end), strict=True))
    nearest = choices[int(np.abs(np.log(choices[:, 0] / wanted[names[0]])).argmin())]
    return dict(zip(names, map(int, nearest), strict=True))


def stage_plan(
    coupling: Coupling, widths: Mapping[str, int], before: Mapping[str, int], first: Coupling, **how: Any
) -> Plan:
    """Make the plan that brings an already narrow network to the widths of its next stage.

    Raises:
        PlanError: the narrow network does not have the groups of the first one.
    """
    goal = {}
    for name, group in first.groups.items():
        if widths[name] < before[name]:
            _check_same(name, group, coupling.groups.get(name), before[name])
            goal[name] = widths[name]
    found = plan(coupling, widths=goal, **how)
    for name, (_, after) in found.widths.items():
        if name in widths and after != widths[name]:
            raise PlanError(
                f"group `{name}` is to have {widths[name]} channels after this stage, but would have {after}."
            )
    return found


def _check_same(name: str, first: Group, now: Group | None, width: int) -> None:
    if now is None or now.width != width or _uses(now) != _uses(first):
        found = "is no group any more" if now is None else f"has {now.width} channels in {len(_uses(now))} axes"
        raise PlanError(
            f"group `{name}` {found} in the network of the stage before, and should have {width} in "
            f"{len(_uses(first))}: it cannot be narrowed in stages. Leave it out with `freeze`, or take one stage."
        )


def _uses(group: Group) -> set[tuple[str, int, int, bool]]:
    axes = [*((axis, True) for axis in group.tied), *((axis, False) for axis in group.readers)]
    return {(axis.parameter, axis.dim, axis.positions.shape[1], tied) for axis, tied in axes}


def compose(first: Plan, second: Plan) -> Plan:
    """Compose two plans, the second made on the network that the first made narrow.

    Raises:
        PlanError: a group does not keep its channels from one to the next.
    """
    both = composed((first, second))
    if both is None:
        raise PlanError("a group has other channels after a stage than before it: take one stage.")
    merged = {name: cluster for name, cluster in both.clusters.items() if len(set(cluster.tolist())) < len(cluster)}
    return Plan(first.coupling, merged, both.method, second.seed)
