"""Attribute the parameters and MACs of a network to its groups, before and after a plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxprune.arguments.inputs import tensors_of
from fxprune.costs import Budget, cost_terms
from fxprune.plans import Plan

Pair = tuple[int, int]
# The name of what has no channels of any group, such as the parameters of a frozen layer.
REST = ""


@dataclass(frozen=True)
class Share:
    """The cost of a group before and after a plan.

    Attributes:
        name: of the group; empty: what belongs to none.
        width: channels.
        params: trainable numbers of the layers that make its channels.
        macs: multiply-accumulates of these layers, for one image.
    """

    name: str
    width: Pair
    params: Pair
    macs: Pair


def shares_of(plan: Plan) -> tuple[Share, ...]:
    """Cost of the network = sum of all shares; a weight counts for the channels it makes.

    A weight with no channels of a group on the axis that it makes counts for the group that it reads.
    """
    batch = len(tensors_of(plan.example_inputs)[0])
    params, macs = _by_group(plan, "params"), _by_group(plan, "macs") // batch
    widths = [*plan.widths.values(), (0, 0)]
    names = [*plan.widths, REST]
    return tuple(
        Share(name, width, (int(p[0]), int(p[1])), (int(m[0]), int(m[1])))
        for name, width, p, m in zip(names, widths, params.T, macs.T, strict=True)
    )


def _by_group(plan: Plan, budget: Budget) -> NDArray[np.int64]:
    """Return the cost before and after, int64 [2, groups + 1]; the last is of no group."""
    coupling = plan.coupling
    terms = cost_terms(coupling, budget)
    groups = len(coupling.groups)
    by_group = terms.by_group(coupling)
    on_groups = np.zeros((by_group.rows.max() + 1, groups + 1))
    on_groups[by_group.rows, by_group.columns] = by_group.weights
    on_groups = on_groups[:, :groups]
    of_factor = np.where(on_groups.any(axis=1), on_groups.argmax(axis=1), groups)
    owners = of_factor[terms.factors][:, ::-1]  # [terms, factors]; first what a weight or a contraction makes
    owner = owners[np.arange(len(owners)), (owners < groups).argmax(axis=1)]
    every = (np.ones(coupling.channels + 1), plan.kept.astype(np.float64))
    costs = [terms.scale * terms.lengths(share).prod(axis=1) for share in every]
    found = [np.bincount(owner, weights=each, minlength=groups + 1) for each in costs]
    return np.rint(found).astype(np.int64)
