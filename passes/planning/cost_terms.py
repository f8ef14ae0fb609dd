"""The cost of a network as a polynomial of its groups' shares: a sum of products of sums, quick to evaluate often.

Each contraction costs ``macs * prod_axis (rest + sum_g part_g * s_g)``, each parameter as many numbers as the product
of such lengths, with s_g the share of its channels that group g keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fxprune.coupling import Coupling

Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CostTerms:
    """A cost in terms of the shares s [groups], in the order of the coupling's groups.

    Attributes:
        scale: [terms].
        rest: [factors]; the last factor is 1, for terms with fewer factors than others.
        parts: [factors, groups].
        factors: int64 [terms, most factors of a term].
    """

    scale: Reals
    rest: Reals
    parts: Reals
    factors: NDArray[np.int64]

    def value(self, shares: Reals) -> float:
        """The cost."""
        return float(self.scale @ self._lengths(shares).prod(axis=1))

    def slopes(self, shares: Reals) -> Reals:
        """Derivative of the cost by each share."""
        lengths, slopes = self._lengths(shares), np.zeros(len(shares))
        for place in range(lengths.shape[1]):
            others = np.delete(lengths, place, axis=1).prod(axis=1)
            slopes += (self.scale * others) @ self.parts[self.factors[:, place]]
        return slopes

    def _lengths(self, shares: Reals) -> Reals:
        lengths: Reals = (self.rest + self.parts @ shares)[self.factors]
        return lengths


def cost_terms(coupling: Coupling, budget: Literal["macs", "params"]) -> CostTerms:
    """What :func:`fxprune.cost.widths_cost` counts, before it rounds."""
    products = _macs(coupling) if budget == "macs" else _params(coupling)
    most = max((len(factors) for _, factors in products), default=1)
    every = [factor for _, factors in products for factor in factors]
    index, places = 0, np.full((len(products), most), len(every))
    for term, (_, factors) in enumerate(products):
        places[term, : len(factors)] = range(index, index + len(factors))
        index += len(factors)
    parts = np.zeros((len(every) + 1, len(coupling.groups)))
    for row, (_, on) in enumerate(every):
        for group, part in on.items():
            parts[row, group] = part
    return CostTerms(
        np.array([scale for scale, _ in products]), np.array([*(rest for rest, _ in every), 1.0]), parts, places
    )


_Factor = tuple[float, Mapping[int, float]]


def _macs(coupling: Coupling) -> list[tuple[float, list[_Factor]]]:
    owner = np.repeat(np.arange(len(coupling.groups)), [group.width for group in coupling.groups.values()])
    products = []
    for facts in coupling.nodes.values():
        for work in facts.works:
            factors: list[_Factor] = []
            for codes in work.axes:
                groups, count = np.unique(owner[codes[codes >= 0]], return_counts=True)
                parts = {int(group): float(n) / len(codes) for group, n in zip(groups, count, strict=True)}
                factors.append((float((codes < 0).mean()), parts))
            products.append((float(work.macs), factors))
    return products


def _params(coupling: Coupling) -> list[tuple[float, list[_Factor]]]:
    first = coupling.shared
    names = dict.fromkeys(
        first.get(name, name) for name, _ in coupling.graph_module.named_parameters(remove_duplicate=False)
    )
    on: dict[str, list[dict[int, float]]] = {name: [{} for _ in coupling.shapes[name]] for name in names}
    for index, group in enumerate(coupling.groups.values()):
        for axis in (*group.tied, *group.readers):
            if (name := first.get(axis.parameter, axis.parameter)) in on:
                parts = on[name][axis.dim]
                parts[index] = parts.get(index, 0.0) + axis.positions.size
    return [
        (1.0, [(n - sum(parts.values()), parts) for n, parts in zip(coupling.shapes[name], on[name], strict=True)])
        for name in names
    ]
