"""Judge by the seeds what a method shows at each price."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from benchmarks.results import Arm, ArmPair, Found, TopDifference, difference

from .methods import BEST, CLUSTERS, FREE, FULL, METHODS, ONE, PRICES
from .settings import KEEPS

# From the worst verdict to the best one.
ORDER = (
    "contradicted",
    "no verdict yet",
    "not shown",
    "not contradicted: no difference beyond the spread",
    "shown",
    "shown, and better",
)


@dataclass(frozen=True)
class JointClaim:
    """A sentence, and the comparisons that must all hold for it."""

    title: str
    first: str
    rivals: tuple[str, ...]
    equal: bool = False

    def pairs(self, keep: str) -> list[ArmPair]:
        """Return the comparisons at one width."""
        return [ArmPair(Arm(self.first, keep), arm_of(rival, keep), self.equal) for rival in self.rivals]


def arm_of(method: str, keep: str) -> Arm:
    """Return the arm of a method at a width; the wide network has only one."""
    return Arm(method, "1" if method == "wide" else keep)


def rivals(price: str) -> tuple[str, ...]:
    """Return the methods of others at a price."""
    return tuple(name for name, method in METHODS.items() if method.price == price and method.rival)


# The clusters that are trained further, in words.
_BY = f"by {CLUSTERS[BEST]}"
_FOLD, _CSGD = f"fold {BEST} readers", f"csgd {BEST}"
_ACTIVATIONS = "fold activations readers"
# Neither C-SGD nor its clusters.
_OTHERS = tuple(name for name in rivals(FULL) if not name.startswith("fold "))
CLAIMS = (
    JointClaim(f"Without labels, fold {_BY} with readers beats every rival", _FOLD, rivals(FREE)),
    JointClaim("Without labels, readers beat statistics", _FOLD, (f"fold {BEST} statistics",)),
    JointClaim("Without labels, clusters by activations beat those by rows", _ACTIVATIONS, ("fold rows readers",)),
    JointClaim(
        "Without labels, clusters by what readers lose beat those by activations",
        "fold outputs readers",
        (_ACTIVATIONS,),
    ),
    JointClaim(
        "Fold without labels is no worse than removal by L1 and one labelled epoch",
        _FOLD,
        ("l1 none + 1 epoch",),
        equal=True,
    ),
    JointClaim("With one epoch, fold with readers beats every rival", f"{_FOLD} + 1 epoch", rivals(ONE)),
    JointClaim("Readers before one epoch beat none", "l1 readers + 1 epoch", ("l1 none + 1 epoch",)),
    JointClaim(f"C-SGD {_BY} beats every rival at equal epochs", _CSGD, rivals(FULL)),
    JointClaim(f"C-SGD {_BY} beats scratch, removal, group Lasso and Torch-Pruning at equal epochs", _CSGD, _OTHERS),
    JointClaim(f"C-SGD {_BY} beats fold with readers and C epochs", _CSGD, (f"{_FOLD} + C epochs",)),
    JointClaim("In C-SGD, clusters by activations beat those by rows", "csgd activations", ("csgd rows",)),
    JointClaim("In C-SGD, clusters by what readers lose beat those by rows", "csgd outputs", ("csgd rows",)),
    JointClaim("In C-SGD, clusters by rows beat even ones", "csgd rows", ("csgd even",)),
    JointClaim(
        "C-SGD by rows beats a merge of the same clusters and C epochs", "csgd rows", ("fold rows none + C epochs",)
    ),
    JointClaim(
        f"C-SGD {_BY} beats a merge of the same clusters and C epochs", _CSGD, (f"fold {BEST} none + C epochs",)
    ),
    JointClaim("Fold with readers and C epochs beats every rival", f"{_FOLD} + C epochs", rivals(FULL)),
    JointClaim("Readers before C epochs beat none", f"{_FOLD} + C epochs", (f"fold {BEST} none + C epochs",)),
    JointClaim("The wide network as a teacher helps after fold", f"{_FOLD} + C taught", (f"{_FOLD} + C epochs",)),
    JointClaim("The wide network as a teacher helps C-SGD", f"{_CSGD} taught", (_CSGD,)),
    JointClaim("A loose end and readers help C-SGD", f"{_CSGD} loose", (_CSGD,)),
    JointClaim(f"C-SGD {_BY} is no worse than the wide network", _CSGD, ("wide",), equal=True),
)


@dataclass(frozen=True)
class Judgement:
    """The verdict of a claim at one width: that of its hardest comparison.

    Attributes:
        claim: what was claimed.
        keep: the width.
        pair: the hardest comparison.
        gap: its difference.
        verdict: of it, and so of all; open while a rival has no rows, unless the claim is contradicted already.
        judged: how many comparisons have rows.
    """

    claim: JointClaim
    keep: str
    pair: ArmPair
    gap: TopDifference
    verdict: str
    judged: int


def judge(found: Found, least: float, claims: Sequence[JointClaim] = CLAIMS) -> Iterator[Judgement]:
    """Yield a judgement for each claim and width that has rows."""
    for claim in claims:
        for keep in KEEPS:
            gaps = [(pair, gap) for pair in claim.pairs(keep) if (gap := difference(pair, found, least))]
            if gaps:
                pair, gap = min(gaps, key=lambda each: (ORDER.index(each[1].verdict(claim.equal)), each[1].mean))
                verdict = gap.verdict(claim.equal)
                if len(gaps) < len(claim.rivals) and verdict != ORDER[0]:
                    verdict = ORDER[1]
                yield Judgement(claim, keep, pair, gap, verdict, len(gaps))


def ranked(found: Found, price: str, keep: str) -> list[Arm]:
    """Order the narrow arms of a price by their mean top-1, the best first."""
    arms = [Arm(name, keep) for name, method in METHODS.items() if method.price == price and name != "wide"]
    means = {arm: mean(row.top1 for row in rows) for arm in arms if (rows := found.get(arm))}  # type: ignore[misc]
    return sorted(means, key=means.__getitem__, reverse=True)


def winners(found: Found) -> Iterator[tuple[str, str, list[Arm]]]:
    """Yield each price and width with its arms, the best first."""
    for price in PRICES:
        for keep in KEEPS:
            if arms := ranked(found, price, keep):
                yield price, keep, arms
