"""Why weights may not merge, over all networks, the dearest reason first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .result import Cold, Result


@dataclass(frozen=True)
class Reason:
    """A reason, whatever the network.

    Attributes:
        why: in words, names left out.
        weights: over all networks; a weight with two reasons counts in both.
        models: networks concerned.
        dearest: the network that it costs most weights, with the line of its source.
    """

    why: str
    weights: int
    models: int
    dearest: str


def reasons(results: Iterable[Result]) -> list[Reason]:
    """Every reason, by the weights that it costs."""
    found: dict[str, list[tuple[Result, Cold]]] = {}
    for result in results:
        for cold in result.frozen:
            found.setdefault(_nameless(cold.why), []).append((result, cold))
    told = [Reason(why, sum(cold.weights for _, cold in on), *_where(on)) for why, on in found.items()]
    return sorted(told, key=lambda reason: -reason.weights)


def reasons_of(result: Result, most: int = 2) -> str:
    """The dearest reasons of one network, with their share of its weights where they cost at least 0.1 %."""
    total = result.parameters or 1
    per_why: dict[str, int] = {}
    for cold in result.frozen:
        per_why[_nameless(cold.why)] = per_why.get(_nameless(cold.why), 0) + cold.weights
    told = sorted(per_why.items(), key=lambda item: -item[1])[:most]
    return "; ".join(f"{why} ({weights / total:.1%})" for why, weights in told if weights >= 0.001 * total)


def _where(on: list[tuple[Result, Cold]]) -> tuple[int, str]:
    result, cold = max(on, key=lambda pair: pair[1].weights)
    return len({result.model for result, _ in on}), f"{result.model} at {cold.source}"


def _nameless(why: str) -> str:
    return re.sub(r"`[^`]*`", "`...`", why)
