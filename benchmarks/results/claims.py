"""Test each claim of the paper: two numbers to compare, and a verdict from the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from .journal import ArmRow
from .settings import ARMS, Arm

Found = Mapping[Arm, Sequence[ArmRow]]


@dataclass(frozen=True)
class ArmPair:
    """A comparison of the top-1 of two arms, seed by seed."""

    first: Arm
    second: Arm
    equal: bool = False
    column: str = "top1"


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and the comparisons that test it."""

    title: str
    pairs: tuple[ArmPair, ...]


def _at_both_widths(first: str, second: str) -> tuple[ArmPair, ...]:
    return tuple(ArmPair(Arm(first, keep), Arm(second, keep)) for keep in ("5/8", "1/2"))


def _budgets(name: str) -> tuple[ArmPair, ...]:
    return tuple(ArmPair(Arm(name, arm.keep), arm) for arm in ARMS if arm.name == "uniform")


CLAIMS = (
    Claim(
        "No fine-tuning is needed: trimmed and left alone, C-SGD is no worse than the wide network",
        tuple(ArmPair(Arm("csgd", keep), Arm("wide", "1"), equal=True) for keep in ("5/8", "1/2")),
    ),
    Claim(
        "No fine-tuning is needed: C epochs of C-SGD are no worse than half of them and half of fine-tuning",
        (ArmPair(Arm("csgd", "5/8"), Arm("finetuned", "5/8"), equal=True),),
    ),
    Claim("C-SGD beats a merge of the same clusters and C epochs of fine-tuning", _at_both_widths("csgd", "merged")),
    Claim("C-SGD beats the narrow network trained from scratch", _at_both_widths("csgd", "scratch")),
    Claim("C-SGD beats magnitude (L1) pruning and fine-tuning", _at_both_widths("csgd", "l1")),
    Claim("C-SGD beats zeroing-out by group Lasso, with its fine-tuning", _at_both_widths("csgd", "lasso")),
    Claim("Clusters by k-means beat even ones", _at_both_widths("csgd", "even")),
    Claim("Clusters by k-means beat imbalanced ones", _at_both_widths("csgd", "imbalanced")),
    Claim("Clusters from all layers of a group beat those of its first layer", _at_both_widths("csgd", "pacesetter")),
    Claim("A wider network, squeezed, beats the plain one", (ArmPair(Arm("squeezed", "1/2"), Arm("scratch", "1/2")),)),
    Claim("Three stages beat one shot", (ArmPair(Arm("staged", "5/8"), Arm("csgd", "5/8")),)),
    Claim("Widths by what clustering loses (inertia) beat uniform ones at equal MACs", _budgets("inertia")),
    Claim("Widths by inertia weighted by the Fisher information beat uniform ones at equal MACs", _budgets("fisher")),
)


@dataclass(frozen=True)
class TopDifference:
    """First minus second over the seeds that both have.

    Attributes:
        seeds: how many.
        mean: of the differences, in shares of the test images.
        half: half the width of the 95 % interval of the mean (Student's t); inf with one seed.
    """

    seeds: int
    mean: float
    half: float

    def verdict(self, equal: bool) -> str:
        """Judge by the interval a claim that the first is better, or is no worse."""
        if self.seeds < 2:
            return "no verdict yet"
        if self.mean - self.half > 0.0:
            return "shown, and better" if equal else "shown"
        if self.mean + self.half < 0.0:
            return "contradicted"
        return "not contradicted: no difference beyond the spread" if equal else "not shown"


def difference(pair: ArmPair, found: Found, least: float) -> TopDifference | None:
    """Compute first minus second with its interval; None if no seed has both."""
    from scipy.stats import t

    first = {row.seed: getattr(row, pair.column) for row in found.get(pair.first, ())}
    second = {row.seed: getattr(row, pair.column) for row in found.get(pair.second, ())}
    both = [first[seed] - second[seed] for seed in first if second.get(seed) is not None and first[seed] is not None]
    if not both:
        return None
    if len(both) == 1:
        return TopDifference(1, both[0], math.inf)
    spread = max(stdev(both), least)
    return TopDifference(len(both), mean(both), float(t.ppf(0.975, len(both) - 1)) * spread / math.sqrt(len(both)))
