"""Write the page of all rows: what was run, the numbers, and a verdict for each claim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from .cells import mean_of, percent, spread_of, table
from .claims import CLAIMS, Claim, Difference, Found, Pair, difference
from .journal import Journal, Row
from .settings import BUDGETED, FISHER_BATCHES, Arm, Settings
from .times import time_claim, time_verdicts

# Training and test images: a fifth is kept for testing, another fifth for each seed.
IMAGES = {"mnist5k": (4000, 1000), "digits": (1437, 360)}

HEAD = """# C-SGD against its rivals

ResNet-20 with {widths} channels on {data}, {train} training and {test} test images of {image_size}x{image_size} grey
pixels, all used; a seed decides the split, the first weights and the order of the images. This is a small and easy
data set: one test image is {image:.2f} % of top-1, and what is measured here need not hold elsewhere.

- **Equal epochs.** Every arm is trained for {total:g} epochs in all. The wide network gets W = {wide_epochs:g}
  epochs; each arm goes on from that same network for C = {more_epochs:g} more, with C-SGD or without. What is trained
  from scratch gets W + C under one schedule.
- **One recipe.** SGD, Nesterov momentum {momentum:g}, batch {batch_size}, weight decay {weight_decay:g}, shifts by up
  to {shift} pixel(s); learning rate up to {lr:g} in the first W epochs and in networks from scratch, {more_lr:g} in
  every later phase; each phase rises over {warmup:.0%} of its steps and falls as a cosine. Nothing was tuned for an
  arm by itself.
- **C-SGD** aims at a deviation of {deviation:g} between the members of a cluster, from which the pull is solved for.
- **Removal** in L1 and Lasso goes through the same coupling and the same rewrite: a channel goes from all layers tied
  to it at once, and as many go as C-SGD merges.
- **Widths.** *5/8* and *1/2* are shares of the channels of every layer. At a share of the MACs, the network costs that
  much within 1 %: *uniform* is one share of the channels for all; *inertia* narrows first where clustering loses least
  per MAC saved; *Fisher-weighted* is the same with rows weighted by the Fisher information of their layer, estimated
  on {fisher} batches of training images. Clusters are found and trained in the same way for all three.
- **Order of memory.** Everything is trained in channels-last on a CPU. oneDNN's gradients of a strided 1x1 convolution
  are wrong there where it has fewer input channels than a block (uxlfoundation/oneDNN#6035): 16 with AVX-512, 8 with
  AVX2. Such layers now stay contiguous, whatever the CPU; the rows below are older. Of the arms that train 8 to 13
  channels there, their CPU is not recorded: narrow from scratch, L1, Lasso and merge with their fine-tuning, C-SGD for
  C/2 and fine-tuned, C-SGD in stages, and half as wide again. With AVX2 these gradients are within 1e-6 of those of
  float64; with AVX-512 they may have been wrong. All other arms train 16 channels there, and are not concerned.
- **Spread** is the sample standard deviation over seeds, {seeds}. Arms are compared seed by seed; a
  difference counts where the 95 % interval of its mean (Student's t, paired) leaves out 0, and the spread is taken to
  be one image at least. Of a few seeds that interval is wide: *not shown* means that these runs cannot tell, not that
  two arms are equal. The comparisons are many and the intervals are not corrected for that: one in twenty would leave
  out 0 by chance.

`make results` runs what is missing in `results.csv`, which holds every number, and writes both files;
`make results ARGS='--seeds 5'` adds seeds, `make results ARGS=--quick` takes a few minutes and writes elsewhere.
"""

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
_COLUMNS = ("arm", "width", "seeds", "top-1", "test loss", "before the trim", "after the trim", "parameters", "MACs")
_DIFFERENCE = ("difference", "width", "top-1, mean and 95 %", "test loss", "seeds", "verdict on top-1")
_TRIM = ("arm", "width", "seeds", "changed by the trim", "float64", "changed by the snap", "deviation", "snap change")


def page(journal: Journal, arms: Sequence[Arm], settings: Settings) -> str:
    """Write the page of a journal; results of other settings do not count."""
    found = journal.current(arms, settings)
    images = IMAGES[settings.data][1]
    trained = [arm for arm in arms if found[arm] and arm.name in LABELS]
    csgd = [arm for arm in trained if arm.name in _CSGD]
    parts = [
        _head(settings, found),
        "## In short\n",
        table(("claim", "width", "verdict"), _verdicts(found, csgd, settings)),
        "## All arms\n",
        "Mean and spread. *Before* and *after the trim* are the network just before and just after channels went, in "
        "stages those of the last one; *top-1* and *test loss* are the network at the very end.\n",
        table(_COLUMNS, (_row(arm, found[arm]) for arm in trained)),
        "## Claims\n",
        _trim_claim(found, csgd),
        time_claim(found, settings),
        *(_claim(claim, found, images) for claim in CLAIMS),
        _seeds([arm for arm in trained if arm.name in BUDGETED], found),
    ]
    return "\n".join(part for part in [*parts, failed(journal)] if part)


def failed(journal: Journal[Any]) -> str:
    """Write a table of the arms that failed; an empty text if none did."""
    rows = [(f"{row.arm} {row.keep}", str(row.seed), row.error) for row in journal.rows if row.error]
    return "\n".join(["## Failed\n", table(("arm", "seed", "error"), rows)]) if rows else ""


def _head(settings: Settings, found: Found) -> str:
    train, test = IMAGES[settings.data]
    counts = sorted({len(rows) for rows in found.values()})
    return HEAD.format(
        **vars(settings),
        widths="-".join(str(round(settings.width * channels)) for channels in (16, 32, 64)),
        train=f"{train:,}",
        test=f"{test:,}",
        image=100 / test,
        total=settings.wide_epochs + settings.more_epochs,
        shift=settings.image_size // 16,
        fisher=FISHER_BATCHES,
        seeds=f"{counts[-1]} of them" if len(counts) == 1 else f"up to {counts[-1]} of them so far",
    )


def _row(arm: Arm, rows: Sequence[Row]) -> Sequence[str]:
    wide = f"{LABELS[arm.name]}", arm.width, str(len(rows))
    return (
        *wide,
        percent([row.top1 for row in rows]),
        spread_of([row.loss for row in rows], "{:.3f}"),
        percent([row.before for row in rows]) if arm.name != "wide" else "",
        percent([row.trimmed for row in rows]),
        mean_of([row.parameters for row in rows], 1e3, "{:.1f} k"),
        mean_of([row.macs for row in rows], 1e6, "{:.2f} M"),
    )


def _verdicts(found: Found, csgd: Sequence[Arm], settings: Settings) -> Iterator[Sequence[str]]:
    """Yield one line per comparison."""
    images = IMAGES[settings.data][1]
    if rows := [row for arm in csgd for row in found[arm]]:
        yield "The trim costs nothing", "all", _trim_verdict(rows)
    yield from time_verdicts(found, settings)
    for claim in CLAIMS:
        for pair, gap, verdict in _gaps(claim, found, images):
            yield claim.title, pair.first.width, f"{verdict} ({points(gap)})"


def _trim_claim(found: Found, arms: Sequence[Arm]) -> str:
    rows = [row for arm in arms for row in found[arm]]
    if not rows:
        return ""
    changed, snapped = (sum(getattr(row, name) or 0 for row in rows) for name in ("changed", "changed_by_snap"))
    worst = max(row.error64 or 0.0 for row in rows)
    rows_shown = table(_TRIM, (_trim_row(arm, found[arm]) for arm in arms))
    return (
        f"### The trim costs nothing\n\n**{_trim_verdict(rows).capitalize()}**: in {len(rows)} networks the trim "
        f"changed the class of {changed} test images; in float64 the outputs differ by {worst:.1g} at most. Before it, "
        "the snap sets the members of a cluster to their mean, running statistics included; it changed the class of "
        f"{snapped}. Worst of the seeds:\n\n{rows_shown}"
    )


def _trim_verdict(rows: Sequence[Row]) -> str:
    # 1e-9: far above what float64 rounds, far below what a wrong merge moves
    exact = all(row.changed == 0 and (row.error64 or 0.0) <= 1e-9 for row in rows)
    return "shown" if exact else "contradicted"


def _trim_row(arm: Arm, rows: Sequence[Row]) -> Sequence[str]:
    def worst(name: str, form: str) -> str:
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        return form.format(max(values)) if values else ""

    return (
        *(LABELS[arm.name], arm.width, str(len(rows))),
        *(worst("changed", "{}"), worst("error64", "{:.1e}"), worst("changed_by_snap", "{}")),
        *(worst("deviation", "{:.1e}"), worst("snap_change", "{:.1e}")),
    )


def _claim(claim: Claim, found: Found, images: int) -> str:
    rows = [
        (_pair_name(pair), pair.first.width, points(gap), _loss(pair, found), str(gap.seeds), f"**{verdict}**")
        for pair, gap, verdict in _gaps(claim, found, images)
    ]
    return f"### {claim.title}\n\n{table(_DIFFERENCE, rows)}" if rows else ""


def _seeds(arms: Sequence[Arm], found: Found) -> str:
    """Write every number of the arms that differ only in widths."""
    if not arms:
        return ""
    seeds = sorted({row.seed for arm in arms for row in found[arm]})
    rows = []
    for arm in arms:
        by_seed = {row.seed: row for row in found[arm]}
        cells = [_both(by_seed[seed]) if seed in by_seed else "" for seed in seeds]
        rows.append((LABELS[arm.name], arm.width, *cells))
    header = ("arm", "width", *(f"seed {seed}" for seed in seeds))
    return "\n".join(["### Widths at equal MACs, seed by seed\n", "Top-1 and test loss.\n", table(header, rows)])


def _both(row: Row) -> str:
    return "" if row.top1 is None or row.loss is None else f"{row.top1:.2%}, {row.loss:.3f}"


def _gaps(claim: Claim, found: Found, images: int) -> Iterator[tuple[Pair, Difference, str]]:
    for pair in claim.pairs:
        gap = difference(pair, found, least=1.0 / images)
        if gap is not None:
            yield pair, gap, gap.verdict(pair.equal)


def _pair_name(pair: Pair) -> str:
    second = "merged without C-SGD, left alone" if pair.of == "trimmed" else LABELS[pair.second.name]
    return f"{LABELS[pair.first.name]} minus {second}"


def points(gap: Difference) -> str:
    """Format a difference of top-1 with half its interval, in percentage points."""
    return f"{100 * gap.mean:+.2f}" + (f" ± {100 * gap.half:.2f}" if gap.seeds > 1 else "") + " points"


def _loss(pair: Pair, found: Found) -> str:
    gap = None if pair.of != "top1" else difference(replace(pair, column="loss", of="loss"), found, least=0.0)
    return "" if gap is None else f"{gap.mean:+.3f}" + (f" ± {gap.half:.3f}" if gap.seeds > 1 else "")
