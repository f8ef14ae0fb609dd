"""Widths for a budget, first where clustering loses least per cost saved."""

from __future__ import annotations

from collections.abc import Callable, Set

import numpy as np
from numpy.typing import NDArray

from fxprune.costs import Budget, CostTerms, cost, cost_terms
from fxprune.coupling import Coupling, Group

from .features import features
from .kmeans import Points
from .widths import Unit, check_share, excess, refined, units_of

Curve = Callable[[Coupling, Group], NDArray[np.float64]]


def widths_by_loss(
    coupling: Coupling,
    budget: Budget,
    share: float,
    round_to: int = 1,
    selected: Set[str] | None = None,
    curve: Curve | None = None,
) -> tuple[dict[str, int], str]:
    """cost(widths) = share * cost(network) within 1 %, or as nearly as can be, at a small sum of losses.

    From the full widths, the unit with the least loss per cost saved becomes one step narrower, until the budget is
    met. Since each loss is convex in the width, and were the costs a sum over units, no other widths would be better;
    costs are products of neighbouring widths, so this is a good answer rather than the best. How little is lost before
    training need not tell how good the network is after it: docs/reports/results.md finds no gain over uniform widths.

    Args:
        coupling: the analysis, with its model still alive.
        budget: what to count.
        share: of the network's total, above 0, up to 1.
        round_to: as in :func:`fxprune.passes.planning.widths.widths_for`.
        selected: as there.
        curve: coupling and group -> loss with 1 to width clusters, convex; None: :func:`loss_curve`.

    Returns:
        Group name -> width, and what was reached, in words.

    Raises:
        NothingToPruneError: the coupling has no groups.
        OptionError: ``share`` or ``round_to`` outside its range.
        PlanError: the model is gone.
    """
    check_share(budget, share)
    units = units_of(coupling, round_to, selected)
    total: int = getattr(cost(coupling), budget)

    terms = cost_terms(coupling, budget).by_group(coupling)

    above = excess(coupling, terms, budget, share)
    last, before = _descend(coupling, units, terms, share * total, curve or loss_curve)
    best = min(last, before, key=lambda widths: abs(above(widths)))
    return refined(units, best, above, budget, share)


def loss_curve(coupling: Coupling, group: Group) -> NDArray[np.float64]:
    """Loss with k clusters: n r_k / (1 - r_k) for k = 1 to width, what is lost over what is left; convex, falls to 0.

    r_k is the share of the squared size of the n tied parameters' rows (each parameter scaled to one size) that goes
    when rows become the means of k clusters. For small r it is the sum of the relative squared errors of the n
    parameters; as less and less is left it grows without bound, so that no group is given up for all others, and faster
    than a logarithm, so that of two layers whose widths are multiplied in the cost not one alone gets narrow. Clusters
    are Ward's, whose sum of squares is convex in k; a balanced group loses at least that much.

    Returns:
        float64 [width].
    """
    points = features(coupling, group, seed=0)
    return float((points**2).sum()) / group.width * lost_over_left(points)


def lost_over_left(points: Points) -> NDArray[np.float64]:
    """r_k / (1 - r_k) for k = 1 to n clusters of n points, where r_k is the share of the squares that their means lose.

    Returns:
        float64 [n].
    """
    from scipy.cluster.hierarchy import ward

    size = float((points**2).sum())
    if size == 0.0:
        return np.zeros(len(points))
    heights = np.maximum.accumulate(ward(points)[:, 2])
    gone = np.r_[0.0, np.cumsum(heights**2 / 2.0)][::-1] / size  # to merge at height h adds h^2 / 2 to the sum
    lost = np.minimum(gone, 1.0 - 1e-12)
    ratio: NDArray[np.float64] = lost / (1.0 - lost)
    return ratio


def _descend(
    coupling: Coupling, units: list[Unit], terms: CostTerms, goal: float, curve: Curve
) -> tuple[dict[str, int], dict[str, int]]:
    """The first widths on the way down whose cost is at most ``goal``, and those one step before."""
    index = {name: place for place, name in enumerate(coupling.groups)}
    full = np.array([group.width for group in coupling.groups.values()], np.float64)
    curves = {group.name: curve(coupling, group) for unit in units for group in unit.groups}
    losses = [
        np.sum([curves[group.name][unit.widths[:, i] - 1] for i, group in enumerate(unit.groups)], axis=0)
        for unit in units
    ]
    on = [np.array([index[group.name] for group in unit.groups]) for unit in units]
    row = [len(unit.widths) - 1 for unit in units]
    shares = np.ones(len(full) + 1)
    for unit, places in zip(units, on, strict=True):
        shares[places] = unit.widths[-1] / full[places]

    def widths() -> dict[str, int]:
        every = [unit.choice(here) for unit, here in zip(units, row, strict=True)]
        return {name: width for choice in every for name, width in choice.items()}

    before = widths()
    while terms.value(shares) > goal and any(row):
        slopes = terms.slopes(shares)
        price = [
            _price(loss, here, unit.widths, slopes[places] / full[places]) if here else np.inf
            for loss, here, unit, places in zip(losses, row, units, on, strict=True)
        ]
        best = int(np.argmin(price))
        before = widths()
        row[best] -= 1
        shares[on[best]] = units[best].widths[row[best]] / full[on[best]]
    return widths(), before


def _price(loss: NDArray[np.float64], here: int, widths: NDArray[np.int64], slopes: NDArray[np.float64]) -> float:
    """Loss per cost saved by one step down from choice ``here``; ``slopes``: cost per channel of each group."""
    saved = float((widths[here] - widths[here - 1]) @ slopes)
    return float(loss[here - 1] - loss[here]) / max(saved, 1e-300)
