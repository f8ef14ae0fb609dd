"""List why weights may not merge, over all networks, the most expensive reason first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .result import CheckResult, FrozenReason


@dataclass(frozen=True)
class CommonReason:
    """A reason over all networks."""

    why: str
    weights: int
    models: int
    dearest: str


def reasons(results: Iterable[CheckResult]) -> list[CommonReason]:
    """List every reason, by the weights that it costs."""
    found: dict[str, list[tuple[CheckResult, FrozenReason]]] = {}
    for result in results:
        for reason in result.frozen:
            found.setdefault(_nameless(reason.why), []).append((result, reason))
    reported = [CommonReason(why, sum(reason.weights for _, reason in on), *_where(on)) for why, on in found.items()]
    return sorted(reported, key=lambda reason: -reason.weights)


def reasons_of(result: CheckResult, most: int = 2) -> str:
    """Describe the most expensive reasons of a network that cost at least 0.1 % of its weights."""
    total = result.parameters or 1
    per_why: dict[str, int] = {}
    for reason in result.frozen:
        per_why[_nameless(reason.why)] = per_why.get(_nameless(reason.why), 0) + reason.weights
    reported = sorted(per_why.items(), key=lambda item: -item[1])[:most]
    return "; ".join(f"{why} ({weights / total:.1%})" for why, weights in reported if weights >= 0.001 * total)


def _where(on: list[tuple[CheckResult, FrozenReason]]) -> tuple[int, str]:
    result, reason = max(on, key=lambda pair: pair[1].weights)
    return len({result.model for result, _ in on}), f"{result.model} at {reason.source}"


def _nameless(why: str) -> str:
    return re.sub(r"`[^`]*`", "`...`", why)
