"""Channels that may not merge are frozen, each with its reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fxprune.common.text import fill, listed


@dataclass(frozen=True)
class Frozen:
    """Channels that may not merge, and the reason.

    Attributes:
        what: axes of parameters with these channels, as ``name:dim``.
        why: the reason, in words.
        node: fx node that froze them; the one that makes an output.
        source: line of the model's source code, if known.
        weights: number of weights in these parameters that no group can narrow.
    """

    what: tuple[str, ...]
    why: str
    node: str
    source: str
    weights: int


# Weights, axes and lines of source.
Facts = tuple[int, tuple[str, ...], tuple[str, ...]]


def by_reason(frozen: Iterable[Frozen]) -> dict[str, Facts]:
    """Map each reason to its weights, axes and lines of source, the most weights first."""
    together = defaultdict[str, list[Frozen]](list)
    for each in frozen:
        together[each.why].append(each)
    found = {
        why: (
            sum(each.weights for each in members),
            tuple(axis for each in members for axis in each.what),
            tuple(dict.fromkeys(each.source for each in members)),
        )
        for why, members in together.items()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def frozen_lines(facts: Mapping[str, Facts], columns: int) -> Iterator[str]:
    """Format what :func:`by_reason` found, in at most ``columns`` columns."""
    for why, (weights, axes, sources) in facts.items():
        where = [source for source in sources if source != "-"]
        said = f"{weights:>11,}  {why}: {listed(axes)}" + (f" ({listed(where)})" if where else "")
        yield fill(said, columns, 13)
