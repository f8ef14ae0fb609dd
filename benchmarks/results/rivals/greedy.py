"""Choose widths for a budget: narrow first where clustering loses least per cost saved."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fxprune.costs import Budget, CostTerms, cost, cost_terms
from fxprune.coupling import Coupling, Group
from fxprune.passes.planning import Unit, as_share, excess, features, refined, units_of

Curve = Callable[[Coupling, Group], NDArray[np.float64]]


def widths_by_loss(
    coupling: Coupling, budget: Budget, share: float, curve: Curve | None = None
) -> tuple[dict[str, int], str]:
    """cost(widths) = share * cost(network) within 1 %, else the nearest, at a small total loss.

    Start from the full widths and make the unit with the least loss per cost saved one step narrower, until the budget
    is met. Each loss is convex in the width, so this would be optimal if the cost were a sum over units. The cost has
    products of neighbouring widths, so the result is good but not the best. A small loss before training does not imply
    a good network after it: docs/reports/results.md finds no gain over uniform widths.

    Returns:
        Group name -> width, and a text that says which share was reached.

    Raises:
        NothingToPruneError: the coupling has no groups.
        OptionError: ``share`` outside its range.
    """
    share = as_share(budget, share)
    units = units_of(coupling, round_to=1)
    total: int = getattr(cost(coupling), budget)
    terms = cost_terms(coupling, budget).by_group(coupling)
    above = excess(coupling, terms, budget, share)
    last, before = _descend(coupling, units, terms, share * total, curve or loss_curve)
    best = min(last, before, key=lambda widths: abs(above(widths)))
    return refined(units, best, above, budget, share)


def loss_curve(coupling: Coupling, group: Group) -> NDArray[np.float64]:
    """loss(k) = n r_k / (1 - r_k) for k = 1 to width clusters: convex, falling to 0.

    r_k is the share of the squared size of the rows of n tied parameters (each scaled to one size) that is lost when
    rows become the means of k clusters. For small r_k, the loss is the sum of the relative squared errors of the n
    parameters. As less is left it grows without bound, so that no group is given up in favour of all others. It grows
    faster than a logarithm, so that of two layers whose widths are multiplied in the cost both become narrower.
    Clusters are Ward's, whose sum of squares is convex in k; a balanced group loses at least that much.

    Returns:
        float64 [width].
    """
    points = features(coupling, group, seed=0)
    return float((points**2).sum()) / group.width * lost_over_left(points)


def lost_over_left(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """r_k / (1 - r_k) for k = 1 to n clusters of n points.

    r_k is the share of the sum of squares that is lost when points become the means of k clusters.

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
    """Return the first widths on the way down that cost at most ``goal``, and those before."""
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
        slopes = slopes_of(terms, shares)
        price = [
            _price(loss, here, unit.widths, slopes[places] / full[places]) if here else np.inf
            for loss, here, unit, places in zip(losses, row, units, on, strict=True)
        ]
        best = int(np.argmin(price))
        before = widths()
        row[best] -= 1
        shares[on[best]] = units[best].widths[row[best]] / full[on[best]]
    return widths(), before


def slopes_of(terms: CostTerms, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the derivative of the cost by each share."""
    lengths, by_factor = terms.lengths(shares), np.zeros(terms.rows.max() + 1)
    for place in range(lengths.shape[1]):
        others = np.delete(lengths, place, axis=1).prod(axis=1)
        np.add.at(by_factor, terms.factors[:, place], terms.scale * others)
    slopes = np.bincount(terms.columns, terms.weights * by_factor[terms.rows], minlength=len(shares))
    return slopes.astype(np.float64)


def _price(loss: NDArray[np.float64], here: int, widths: NDArray[np.int64], slopes: NDArray[np.float64]) -> float:
    """Return loss / cost saved for one step down from choice ``here``.

    ``slopes`` is the cost per channel of each group.
    """
    saved = float((widths[here] - widths[here - 1]) @ slopes)
    return float(loss[here - 1] - loss[here]) / max(saved, 1e-300)
