"""Compose the plans of a network that is narrowed several times into one plan."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxprune.coupling import Axis, Group
from fxprune.plan_file import StoredPlan
from fxprune.plans import Plan


def composed(plans: Sequence[Plan | StoredPlan]) -> StoredPlan | None:
    """Compose plans into one on the first network; each was made on what the last one left.

    Plans that hold their analyses are compared position by position, stored ones by names and widths.

    Returns:
        None if a group does not keep its channels from one plan to the next.
    """
    clusters: dict[str, NDArray[np.int64]] = {}
    for plan in plans:
        for name, cluster in plan.clusters.items():
            if name in clusters and len(cluster) != int(clusters[name].max(initial=-1)) + 1:
                return None
        both = dict.fromkeys([*clusters, *plan.clusters])
        clusters = {
            name: follow(clusters[name], plan.clusters.get(name)) if name in clusters else plan.clusters[name]
            for name in both
        }
    for number, (plan, after) in enumerate(itertools.pairwise(plans), start=1):
        names = {name for later in plans[number:] for name in later.clusters}
        if isinstance(plan, Plan) and isinstance(after, Plan) and not _keeps(plan, after, names):
            return None
    content = {
        **plans[0].to_json(),
        "method": "; ".join(plan.method for plan in plans),
        "seed": plans[-1].seed,
        "clusters": {name: cluster.tolist() for name, cluster in clusters.items()},
    }
    content.pop("sha256", None)
    return StoredPlan(content, "the composed plan")


def follow(first: NDArray[np.int64], second: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return the cluster of each channel after two plans; the second divides kept channels."""
    _, kept, of = np.unique(first, return_index=True, return_inverse=True)
    position = np.argsort(np.argsort(kept))[of]
    return (position if second is None else second[position]).astype(np.int64)


def remember(
    meta: dict[str, Any], plan: Plan | StoredPlan, earlier: Sequence[Plan | StoredPlan], origin: object = None
) -> None:
    """Keep in the ``meta`` of a narrow network the plans that made it, and all of them in one.

    Args:
        meta: of the network; it gets ``plan`` and ``earlier``, and with earlier plans ``composed`` and ``origin``.
        plan: the last one.
        earlier: those before it, the first one first.
        origin: how the network that was narrowed first is built; None: it has no name.
    """
    meta.update(plan=plan, earlier=tuple(earlier))
    if earlier:
        meta.update(composed=composed((*earlier, plan)), origin=origin)


def _keeps(plan: Plan, after: Plan, names: set[str]) -> bool:
    """Tell whether the later analysis has each group with the channels that the plan keeps."""
    kept: dict[tuple[str, int], NDArray[np.int64]] = {}  # of an axis, after every cluster on it is cut
    for part in plan.partitions():
        key = (part.parameter, part.dim)
        kept[key] = np.intersect1d(kept.get(key, part.kept), part.kept)
    before, now = plan.coupling, after.coupling

    def matches(name: str) -> bool:
        if name not in before.groups or name not in now.groups:
            return False
        cluster = plan.clusters.get(name, np.arange(before.groups[name].width))
        stay = np.sort(np.unique(cluster, return_index=True)[1])
        expected = {
            key: np.searchsorted(kept[key], axis.positions[stay]) if key in kept else axis.positions[stay]
            for key, axis in _axes(before.groups[name]).items()
            if axis.parameter in now.shapes
        }
        found = {
            key: axis.positions for key, axis in _axes(now.groups[name]).items() if axis.parameter in before.shapes
        }
        return (
            bool(found)
            and found.keys() == expected.keys()
            and all(np.array_equal(np.sort(found[each], 1), np.sort(expected[each], 1)) for each in found)
        )

    return all(map(matches, names))


def _axes(group: Group) -> dict[tuple[str, int], Axis]:
    return {(axis.parameter, axis.dim): axis for axis in (*group.tied, *group.readers)}
