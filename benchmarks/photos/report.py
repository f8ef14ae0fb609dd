"""Write the page of all rows: from which photos, and how near to the wide network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.results.cells import mean_of, percent, spread_of, table
from benchmarks.results.journal import Journal
from benchmarks.results.report import failed
from benchmarks.results.settings import Arm, Settings

from .methods import ALL_WIDTHS, CURVE, METHODS, PRICED, TRAINED, TRIAL
from .packages import SKIMAGE, SKLEARN
from .settings import KEEPS, PhotoRow, PhotoSettings

# Pictures of foolbox: every second one is fitted from, the others measure.
_LABELLED = 20
_COLUMNS = ("method", *(f"{float(x):.0%}" for x in (0.95, 0.9, 0.75, 0.5)))

HEAD = """# MobileNetV2 of ImageNet, narrowed from {photos} photos

torchvision's MobileNetV2 with its first ImageNet weights (top-1 71.9 % by torchvision's own count; not measured here),
{image_size} px, narrowed to a share of its MACs and repaired without labels and without training.

- **Few photos.** {skimage} of scikit-image, {sklearn} of scikit-learn and {half} of foolbox's {labelled} ImageNet
  pictures to cluster and fit from: {fit} crops, {crops_to_fit} of each, at random places and sizes, half of them
  turned left to right. The other {half} of foolbox's pictures measure: {measure} crops, {crops_to_measure} of each,
  of photos that no fit has seen. That is not ImageNet's validation set: crops of {half} photos are alike, so that a
  difference of a few points between two methods means nothing, and the numbers are of use only where methods lie far
  apart.
- **Agreement** is the share of these crops whose top-1 is that of the wide network. **Error** is that of the logits,
  |narrow - wide| / |wide| over all crops. **Right** counts foolbox's {labelled} pictures, cut in the middle, that get
  their class (the wide network: {right}); in brackets those of the {half} that no fit has seen.
- **Widths**: the channels inside of blocks, between their two 1x1 convolutions, one share for all of them; those
  between blocks stay as they are, but for the comparison below.
- **Repairs**: *as it is*; *statistics*: running statistics of batch normalisation estimated again; *readers*: layers
  fitted by least squares to what the wide network's put out. `fold` judges each repair on a quarter of the crops, which
  it holds back, and keeps it only where it helps; where it kept another one than asked for, the cell says so.
- **Removal by L1** goes through the same coupling and the same rewrite, and gets the same repairs.
- **The teacher** is the wide network: {steps} steps of Adam on the squared error of the logits, batch {batch_size},
  learning rate up to {lr:g}, on fresh crops of the photos to fit from; running statistics stay as they are.

For scale, published without training, on all of ImageNet's validation set: ResNet-50 with 16 % of its parameters gone
loses 7 points (IFM); MobileNetV2 with 10 % of its filters gone loses 18 (REST). Those are points of accuracy;
disagreement with the wide network is the harder count, since two wrong answers may differ.

`make photos` runs what is missing in `photos.csv`, which holds every number, and writes the page and, with matplotlib,
the curves; it needs the packages that it names where they are missing. Empty cells have not been run yet.
"""


def page(journal: Journal[Any], arms: Sequence[Arm], settings: Settings) -> str:
    """Write the page of a journal; results of other settings do not count."""
    assert isinstance(settings, PhotoSettings)
    found = journal.current(arms, settings)
    parts = [
        _head(settings),
        "## Agreement with the wide network, by MACs left\n",
        "![Agreement against MACs left](photos.svg)\n",
        table(_COLUMNS, _curves(found, _agreement)),
        "## Error of the logits, by MACs left\n",
        table(_COLUMNS, _curves(found, lambda rows: spread_of([row.logits for row in rows], "{:.2f}"))),
        "## Right, by MACs left\n",
        table(_COLUMNS, _curves(found, _right)),
        *_section(f"The teacher, at {float(Arm('', TRAINED).share):.0%} of the MACs", _taught(found)),
        *_section(f"Which widths, at {float(Arm('', TRIAL).share):.0%} of the MACs", _trial(found)),
        *_price(found, settings),
        failed(journal),
    ]
    return "\n".join(part for part in parts if part)


def _head(settings: PhotoSettings) -> str:
    half = _LABELLED // 2
    photos = len(SKIMAGE) + len(SKLEARN) + half
    return HEAD.format(
        **vars(settings),
        photos=photos,
        skimage=len(SKIMAGE),
        sklearn=len(SKLEARN),
        half=half,
        labelled=_LABELLED,
        fit=photos * settings.crops_to_fit,
        measure=half * settings.crops_to_measure,
        right="18, 9 of those unseen",
    )


Found = Mapping[Arm, Sequence[PhotoRow]]


def _curves(found: Found, cell: Any) -> Iterator[Sequence[str]]:
    for name in CURVE:
        cells = [cell(found.get(Arm(name, keep), ())) for keep in KEEPS]
        if any(cells):
            yield METHODS[name].label, *cells


def _agreement(rows: Sequence[PhotoRow]) -> str:
    return percent([row.agreement for row in rows]) + _kept(rows)


def _right(rows: Sequence[PhotoRow]) -> str:
    return ", ".join(f"{row.right} ({row.right_unseen})" for row in rows if row.right is not None)


def _kept(rows: Sequence[PhotoRow]) -> str:
    """Name the repair that was kept, if another one was asked for."""
    names = {row.kept for row in rows if row.kept and not row.arm.endswith(row.kept) and row.arm != "taught"}
    return f" (kept: {', '.join(sorted(names))})" if names else ""


_NUMBERS = ("method", "agreement", "error of the logits", "right", "parameters", "CPU seconds")


def _numbers(name: str, rows: Sequence[PhotoRow], label: str) -> Sequence[str]:
    return (
        label,
        _agreement(rows),
        spread_of([row.logits for row in rows], "{:.2f}"),
        _right(rows),
        mean_of([row.parameters for row in rows], 1e6, "{:.2f} M"),
        spread_of([row.cpu_seconds for row in rows], "{:.0f}"),
    )


def _taught(found: Found) -> Iterator[Sequence[str]]:
    for name in (*CURVE, "taught"):
        if rows := found.get(Arm(name, TRAINED)):
            yield _numbers(name, rows, METHODS[name].label)


def _trial(found: Found) -> Iterator[Sequence[str]]:
    for name in ALL_WIDTHS:
        for each, widths in ((name.removeprefix("all "), "inside of blocks"), (name, "all")):
            if rows := found.get(Arm(each, TRIAL)):
                yield _numbers(each, rows, f"{METHODS[each].label}; widths: {widths}")


def _section(title: str, rows: Iterator[Sequence[str]]) -> list[str]:
    lines = list(rows)
    return [f"## {title}\n", table(_NUMBERS, lines)] if lines else []


def _price(found: Found, settings: PhotoSettings) -> list[str]:
    rows = []
    for network in PRICED:
        for row in found.get(Arm(f"fold {network}", "1/2"), ()):
            if row.memory is not None and row.memory_before is not None and row.images is not None:
                more = row.memory - row.memory_before
                rows.append((network, f"{row.images}", f"{row.cpu_seconds:.0f}", _gib(row.memory), _gib(more)))
    if not rows:
        return []
    header = ("network", "images", "CPU seconds", "peak memory", "more than before the fold")
    return [
        "## What a fold costs\n",
        f"`fxprune.fold` with fitted readers at half of the channels, from {settings.price_images} random images of "
        "224 px, on one thread of a CPU that did other things, too. Memory grows with the images, since activations "
        "of all of them are alive at once.\n",
        table(header, rows),
    ]


def _gib(value: int) -> str:
    return f"{value / 2**30:.1f} GiB"
