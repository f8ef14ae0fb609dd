"""Write the page of all rows: what wins, the verdicts, a table per price and width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.results.cells import mean_of, percent, spread_of, table
from benchmarks.results.claims import Found, Pair, difference
from benchmarks.results.journal import Journal
from benchmarks.results.report import failed, points
from benchmarks.results.settings import Arm, Settings

from .claims import CLAIMS, arm_of, judge, ranked, winners
from .methods import FREE, METHODS, PRICES
from .settings import KEEPS, PriceRow, PriceSettings

TEST_IMAGES = {"fashion-mnist": 10_000, "digits": 360}

HEAD = """# The most accurate narrow network at each price

ResNet-{depth} with {widths} channels on {data}: {train_images:,} training images of {image_size}x{image_size} grey
pixels, all {test:,} test images. A seed decides which training images, the first weights and the order; {seeds}.

- **Equal epochs.** The wide network gets W = {wide_epochs:g} epochs, once for each seed, and every arm begins with
  it. At the price of a *full training* C = {more_epochs:g} more epochs follow, with C-SGD or after the reduction;
  what is trained from scratch gets W + C under one schedule. *One epoch* is one epoch after the reduction. *No
  labels* is the reduction alone, from {images} images without their classes; removal by Taylor sees their classes,
  since it needs gradients of the loss.
- **One recipe.** SGD, Nesterov momentum {momentum:g}, batch {batch_size}, weight decay {weight_decay:g}, shifts by up
  to {shift} pixel(s); learning rate up to {lr:g} in the first W epochs and from scratch, {more_lr:g} afterwards; each
  phase rises over {warmup:.0%} of its steps and falls as a cosine. Nothing was tuned for an arm by itself.
- **Widths** are shares of the channels of every layer, the same for all.
- **Repairs** after a merge or a removal: *as it is*; *statistics*: running statistics of batch normalisation estimated
  again; *readers*: layers fitted by least squares to what the wide network's put out.
- **C-SGD** aims at a deviation of {deviation:g} between the members of a cluster; *not to the end*: of
  {loose_deviation:g}.
- **The teacher** is the wide network: logits at temperature {teacher_temperature:g}, {teacher_weight:g} of the loss.
- **Torch-Pruning** 1.6.1 prunes by its own groups and group magnitudes.
- **Spread** is the sample standard deviation over seeds. Arms are compared seed by seed; a difference counts where the
  95 % interval of its mean (Student's t, paired) leaves out 0; the spread is taken to be one test image at least. *Not
  shown* means that these runs cannot tell, not that two arms are equal. Intervals are not corrected for the number of
  comparisons, and a rival that was chosen for its mean is a little lucky.
- **Agreement** is the share of test images that get the class which the wide network after W epochs gives them.
  **Seconds** are those of one CPU core for the reduction and the training after W epochs.

`make prices` runs what is missing in `prices.csv`, which holds every number, and writes both files;
`make prices ARGS=--quick` takes some minutes and writes elsewhere.
"""

_WINNERS = ("price", "width", "best method", "top-1", "next", "difference, mean and 95 %", "verdict")
_VERDICTS = ("claim", "width", "verdict", "hardest comparison", "difference, mean and 95 %", "compared")
_COLUMNS = ("method", "seeds", "reduced", "top-1", "test loss", "agreement", "seconds", "minus the best rival")
_SIZES = ("width", "parameters", "MACs")


def page(journal: Journal[Any], arms: Sequence[Arm], settings: Settings) -> str:
    """Write the page of a journal; results of other settings do not count."""
    assert isinstance(settings, PriceSettings)
    found = journal.current(arms, settings)
    least = 1.0 / TEST_IMAGES[settings.data]
    parts = [
        _head(settings, found),
        "## What wins\n",
        table(_WINNERS, _winners(found, least)),
        "## Verdicts\n",
        f"A claim holds where all of its comparisons do; the hardest one is shown. There are {len(CLAIMS)} claims.\n",
        table(_VERDICTS, _verdicts(found, least)),
        "## Sizes\n",
        table(_SIZES, _sizes(found)),
    ]
    for price in PRICES:
        for keep in KEEPS:
            if rows := list(_rows(found, price, keep, least)):
                drop = {2} if price == FREE else set()  # it is top-1
                cells = [[cell for at, cell in enumerate(row) if at not in drop] for row in (_COLUMNS, *rows)]
                parts += [f"## {price.capitalize()}, {keep} of the channels\n", table(cells[0], cells[1:])]
    return "\n".join(part for part in [*parts, failed(journal)] if part)


def _head(settings: PriceSettings, found: Found) -> str:
    counts = sorted({len(rows) for rows in found.values()})
    return HEAD.format(
        **vars(settings),
        depth=6 * settings.blocks + 2,
        widths="-".join(str(round(settings.width * channels)) for channels in (16, 32, 64)),
        test=TEST_IMAGES[settings.data],
        shift=settings.image_size // 16,
        seeds=f"{counts[-1]} seeds" if len(counts) == 1 else f"up to {counts[-1]} seeds so far",
    )


def _winners(found: Found, least: float) -> Iterator[Sequence[str]]:
    for price, keep, (best, *others) in winners(found):
        cells = (price, keep, METHODS[best.name].label, percent([row.top1 for row in found[best]]))
        gap = difference(Pair(best, others[0]), found, least) if others else None
        if gap is None:
            yield *cells, "", "", ""
        else:
            yield *cells, METHODS[others[0].name].label, points(gap), gap.verdict(False)


def _verdicts(found: Found, least: float) -> Iterator[Sequence[str]]:
    for each in judge(found, least):
        compared = f"{each.judged} of {len(each.claim.rivals)}"
        second = METHODS[each.pair.second.name].label
        yield each.claim.title, each.keep, f"**{each.verdict}**", second, points(each.gap), compared


def _sizes(found: Found) -> Iterator[Sequence[str]]:
    for keep in ("1", *KEEPS):
        sizes = [(row.parameters, row.macs) for arm, rows in found.items() if arm.keep == keep for row in rows]
        if sizes:
            parameters, macs = zip(*sorted(set(sizes)), strict=True)
            yield keep, _range(parameters, 1e3, "{:.1f} k"), _range(macs, 1e6, "{:.2f} M")


def _range(values: Sequence[int | None], unit: float, form: str) -> str:
    texts = dict.fromkeys(mean_of([value], unit, form) for value in values)
    return " to ".join(texts) if len(texts) < 3 else f"{next(iter(texts))} to {list(texts)[-1]}"


def _rows(found: Found, price: str, keep: str, least: float) -> Iterator[Sequence[str]]:
    order = ranked(found, price, keep)
    best = next((arm for arm in order if METHODS[arm.name].rival), None)
    wide = arm_of("wide", keep)
    if order and price == METHODS["wide"].price and found.get(wide):
        order = [wide, *order]
    for arm in order:
        rows: Sequence[PriceRow] = found[arm]  # type: ignore[assignment]
        gap = difference(Pair(arm, best), found, least) if best not in (None, arm) else None
        yield (
            METHODS[arm.name].label,
            str(len(rows)),
            percent([row.trimmed for row in rows]),
            percent([row.top1 for row in rows]),
            spread_of([row.loss for row in rows], "{:.3f}"),
            percent([row.agreement for row in rows]),
            spread_of([row.cpu_seconds for row in rows], "{:.3g}"),
            "the best rival" if arm == best else points(gap) if gap else "",
        )
