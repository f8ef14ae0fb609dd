"""Write the page of all rows: from which photos, and how near to the wide network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.pages import fill
from benchmarks.results import Arm, ArmJournal, Settings, failed, mean_of, percent_spread, spread_of

from .methods import ALL_WIDTHS, CURVE, METHODS, OTHERS, PRICED, TRAINED, TRIAL
from .networks import NETWORKS
from .packages import SKIMAGE, SKLEARN
from .settings import KEEPS, PhotoRow, PhotoSettings

# Pictures of foolbox: every second one is fitted from, the others measure.
_LABELLED = 20


def page(journal: ArmJournal[Any], arms: Sequence[Arm], settings: Settings) -> str:
    """Write the page of a journal; results of other settings do not count."""
    assert isinstance(settings, PhotoSettings)
    found = journal.current(arms, settings)
    half = _LABELLED // 2
    return fill(
        "photos/page.md.jinja",
        **vars(settings),
        photos=len(SKIMAGE) + len(SKLEARN) + half,
        skimage=len(SKIMAGE),
        sklearn=len(SKLEARN),
        half=half,
        labelled=_LABELLED,
        shares=("method", *(f"{Arm('', keep).share:.0%}" for keep in KEEPS)),
        agreement=_curves(found, _agreement),
        logits=_curves(found, _errors),
        right=_curves(found, _right),
        trained=Arm("", TRAINED).share,
        taught=[*_taught(found)],
        others=[
            (NETWORKS[each].label, [*_curves(found, _agreement, f"{each} ")], [*_curves(found, _errors, f"{each} ")])
            for each in OTHERS
        ],
        other_shares=("method", *(f"{Arm('', keep).share:.0%}" for keep in (TRIAL, TRAINED))),
        trial=Arm("", TRIAL).share,
        widths=[*_trial(found)],
        prices=[*_prices(found)],
        failed=failed(journal),
    )


Found = Mapping[Arm, Sequence[PhotoRow]]


def _curves(found: Found, cell: Any, network: str = "") -> Iterator[Sequence[str]]:
    for name in CURVE:
        keeps = (TRIAL, TRAINED) if network else KEEPS
        cells = [cell(found.get(Arm(network + name, keep), ())) for keep in keeps]
        if any(cells):
            yield METHODS[name].label, *cells


def _agreement(rows: Sequence[PhotoRow]) -> str:
    return percent_spread([row.agreement for row in rows]) + _kept(rows)


def _errors(rows: Sequence[PhotoRow]) -> str:
    return spread_of([row.logits for row in rows], "{:.2f}")


def _right(rows: Sequence[PhotoRow]) -> str:
    return ", ".join(f"{row.right} ({row.right_unseen})" for row in rows if row.right is not None)


def _kept(rows: Sequence[PhotoRow]) -> str:
    """Name the repair that was kept, if another one was asked for."""
    names = {row.kept for row in rows if row.kept and not row.arm.endswith(row.kept) and row.arm != "taught"}
    return f" (kept: {', '.join(sorted(names))})" if names else ""


def _numbers(rows: Sequence[PhotoRow], label: str) -> Sequence[str]:
    return (
        label,
        _agreement(rows),
        _errors(rows),
        _right(rows),
        mean_of([row.parameters for row in rows], 1e6, "{:.2f} M"),
        spread_of([row.cpu_seconds for row in rows], "{:.0f}"),
    )


def _taught(found: Found) -> Iterator[Sequence[str]]:
    for name in (*CURVE, "taught"):
        if rows := found.get(Arm(name, TRAINED)):
            yield _numbers(rows, METHODS[name].label)


def _trial(found: Found) -> Iterator[Sequence[str]]:
    for name in ALL_WIDTHS:
        for each, widths in ((name.removeprefix("all "), "inside of blocks"), (name, "all")):
            if rows := found.get(Arm(each, TRIAL)):
                yield _numbers(rows, f"{METHODS[each].label}; widths: {widths}")


def _prices(found: Found) -> Iterator[Sequence[str]]:
    for network in PRICED:
        for row in found.get(Arm(f"fold {network}", "1/2"), ()):
            if row.memory is not None and row.memory_before is not None and row.images is not None:
                more = row.memory - row.memory_before
                yield network, f"{row.images}", f"{row.cpu_seconds:.0f}", _gib(row.memory), _gib(more)


def _gib(value: int) -> str:
    return f"{value / 2**30:.1f} GiB"
