"""Write the page of all rows: what was run, the numbers, and a verdict for each claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.pages import fill

from .cells import mean_of, percent_spread, spread_of
from .claims import CLAIMS, ArmPair, Claim, Found, TopDifference, difference
from .journal import ArmJournal, ArmRow
from .settings import BUDGETED, FISHER_BATCHES, Arm, Settings
from .times import TITLE, time_rows, time_verdicts

# Training and test images: a fifth is kept for testing, another fifth for each seed.
IMAGES = {"mnist5k": (4000, 1000), "digits": (1437, 360)}

LABELS = {
    "wide": "wide, plain SGD throughout",
    "scratch": "narrow, from scratch",
    "csgd": "C-SGD, k-means",
    "even": "C-SGD, even clusters",
    "imbalanced": "C-SGD, imbalanced clusters",
    "pacesetter": "C-SGD, clusters of the first layer alone",
    "staged": "C-SGD in stages, 13/16, 11/16, 5/8",
    "finetuned": "C-SGD for C/2, fine-tuned for C/2",
    "squeezed": "half as wide again, squeezed by C-SGD",
    "l1": "L1 pruning, fine-tuned",
    "lasso": "group Lasso for C/2, fine-tuned for C/2",
    "merged": "merged without C-SGD, fine-tuned",
    "uniform": "C-SGD, uniform widths",
    "inertia": "C-SGD, widths by inertia",
    "fisher": "C-SGD, widths by Fisher-weighted inertia",
}
_CSGD = ("csgd", "even", "imbalanced", "pacesetter", "staged", "finetuned", "squeezed", *BUDGETED)


def page(journal: ArmJournal, arms: Sequence[Arm], settings: Settings) -> str:
    """Write the page of a journal; results of other settings do not count."""
    found = journal.current(arms, settings)
    train, test = IMAGES[settings.data]
    counts = sorted({len(rows) for rows in found.values()})
    trained = [arm for arm in arms if found[arm] and arm.name in LABELS]
    csgd = [arm for arm in trained if arm.name in _CSGD]
    trimmed = _trimmed([row for arm in csgd for row in found[arm]])
    claims = [(claim.title, [*_gaps(claim, found, test)]) for claim in CLAIMS]
    verdicts = [("The trim costs nothing", "all", trimmed["verdict"])] if csgd else []
    verdicts += [*time_verdicts(found, settings)]
    verdicts += [(title, gap[0].first.width, f"{gap[2]} ({points(gap[1])})") for title, gaps in claims for gap in gaps]
    header, budgets = _by_seed([arm for arm in trained if arm.name in BUDGETED], found)
    return fill(
        "results/page.md.jinja",
        **vars(settings),
        widths="-".join(str(round(settings.width * channels)) for channels in (16, 32, 64)),
        train=train,
        test=test,
        fisher=FISHER_BATCHES,
        seeds=f"{counts[-1]} of them" if len(counts) == 1 else f"up to {counts[-1]} of them so far",
        verdicts=verdicts,
        arms=[_row(arm, found[arm]) for arm in trained],
        trimmed=trimmed,
        trims=[_trim_row(arm, found[arm]) for arm in csgd],
        times_title=TITLE,
        times=[*time_rows(found, settings)],
        claims=[(title, [_claim_row(found, *gap) for gap in gaps]) for title, gaps in claims],
        budget_header=header,
        budgets=budgets,
        failed=failed(journal),
    )


def failed(journal: ArmJournal[Any]) -> list[Sequence[str]]:
    """List the arms that failed."""
    return [(f"{row.arm} {row.keep}", str(row.seed), row.error) for row in journal.rows if row.error]


def _row(arm: Arm, rows: Sequence[ArmRow]) -> Sequence[str]:
    wide = f"{LABELS[arm.name]}", arm.width, str(len(rows))
    return (
        *wide,
        percent_spread([row.top1 for row in rows]),
        spread_of([row.loss for row in rows], "{:.3f}"),
        percent_spread([row.before for row in rows]) if arm.name != "wide" else "",
        percent_spread([row.trimmed for row in rows]),
        mean_of([row.parameters for row in rows], 1e3, "{:.1f} k"),
        mean_of([row.macs for row in rows], 1e6, "{:.2f} M"),
    )


def _trimmed(rows: Sequence[ArmRow]) -> Mapping[str, Any]:
    """Sum up what the trims changed, in all networks."""
    changed, snapped = (sum(getattr(row, name) or 0 for row in rows) for name in ("changed", "changed_by_snap"))
    # 1e-9: far above what float64 rounds, far below what a wrong merge moves
    exact = all(row.changed == 0 and (row.error64 or 0.0) <= 1e-9 for row in rows)
    worst = max((row.error64 or 0.0 for row in rows), default=0.0)
    verdict = "shown" if exact else "contradicted"
    return {"networks": len(rows), "changed": changed, "snapped": snapped, "error64": worst, "verdict": verdict}


def _trim_row(arm: Arm, rows: Sequence[ArmRow]) -> Sequence[str]:
    def worst(name: str, form: str) -> str:
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        return form.format(max(values)) if values else ""

    return (
        *(LABELS[arm.name], arm.width, str(len(rows))),
        *(worst("changed", "{}"), worst("error64", "{:.1e}"), worst("changed_by_snap", "{}")),
        *(worst("deviation", "{:.1e}"), worst("snap_change", "{:.1e}")),
    )


def _by_seed(arms: Sequence[Arm], found: Found) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return header and rows with every number of arms that differ only in widths."""
    seeds = sorted({row.seed for arm in arms for row in found[arm]})
    rows = []
    for arm in arms:
        by_seed = {row.seed: row for row in found[arm]}
        cells = [_score_and_loss(by_seed[seed]) if seed in by_seed else "" for seed in seeds]
        rows.append((LABELS[arm.name], arm.width, *cells))
    return ("arm", "width", *(f"seed {seed}" for seed in seeds)), rows


def _score_and_loss(row: ArmRow) -> str:
    return "" if row.top1 is None or row.loss is None else f"{row.top1:.2%}, {row.loss:.3f}"


def _gaps(claim: Claim, found: Found, images: int) -> Iterator[tuple[ArmPair, TopDifference, str]]:
    for pair in claim.pairs:
        gap = difference(pair, found, least=1.0 / images)
        if gap is not None:
            yield pair, gap, gap.verdict(pair.equal)


def _claim_row(found: Found, pair: ArmPair, gap: TopDifference, verdict: str) -> Sequence[str]:
    name, width = f"{LABELS[pair.first.name]} minus {LABELS[pair.second.name]}", pair.first.width
    return name, width, points(gap), _loss(pair, found), str(gap.seeds), f"**{verdict}**"


def points(gap: TopDifference) -> str:
    """Format a difference of top-1 with half its interval, in percentage points."""
    return f"{100 * gap.mean:+.2f}" + (f" ± {100 * gap.half:.2f}" if gap.seeds > 1 else "") + " points"


def _loss(pair: ArmPair, found: Found) -> str:
    gap = difference(replace(pair, column="loss"), found, least=0.0)
    return "" if gap is None else f"{gap.mean:+.3f}" + (f" ± {gap.half:.3f}" if gap.seeds > 1 else "")
