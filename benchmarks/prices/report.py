"""Write the page of all rows: what wins, the verdicts, a table per price and width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.pages import fill
from benchmarks.results import (
    Arm,
    ArmJournal,
    ArmPair,
    Found,
    Settings,
    difference,
    failed,
    mean_of,
    percent_spread,
    points,
    spread_of,
)

from .claims import CLAIMS, arm_of, judge, ranked, winners
from .methods import FREE, METHODS, PRICES
from .settings import KEEPS, PriceRow, PriceSettings

TEST_IMAGES = {"fashion-mnist": 10_000, "digits": 360}
_COLUMNS = ("method", "seeds", "reduced", "top-1", "test loss", "agreement", "seconds", "minus the best rival")


def page(journal: ArmJournal[Any], arms: Sequence[Arm], settings: Settings) -> str:
    """Write the page of a journal; results of other settings do not count."""
    assert isinstance(settings, PriceSettings)
    found = journal.current(arms, settings)
    test = TEST_IMAGES[settings.data]
    counts = sorted({len(rows) for rows in found.values()})
    return fill(
        "prices/page.md.jinja",
        **vars(settings),
        widths="-".join(str(round(settings.width * channels)) for channels in (16, 32, 64)),
        test=test,
        seeds=f"{counts[-1]} seeds" if len(counts) == 1 else f"up to {counts[-1]} seeds so far",
        winners=_winners(found, 1 / test),
        claims=len(CLAIMS),
        verdicts=_verdicts(found, 1 / test),
        sizes=_sizes(found),
        prices=[(price, keep, *_priced(found, price, keep, 1 / test)) for price in PRICES for keep in KEEPS],
        failed=failed(journal),
    )


def _priced(found: Found, price: str, keep: str, least: float) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return header and rows of a price and a width; without labels, what is reduced is top-1."""
    drop = _COLUMNS.index("reduced") if price == FREE else len(_COLUMNS)
    header, *rows = [(*row[:drop], *row[drop + 1 :]) for row in (_COLUMNS, *_rows(found, price, keep, least))]
    return header, rows


def _winners(found: Found, least: float) -> Iterator[Sequence[str]]:
    for price, keep, (best, *others) in winners(found):
        cells = (price, keep, METHODS[best.name].label, percent_spread([row.top1 for row in found[best]]))
        gap = difference(ArmPair(best, others[0]), found, least) if others else None
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
        gap = difference(ArmPair(arm, best), found, least) if best not in (None, arm) else None
        yield (
            METHODS[arm.name].label,
            str(len(rows)),
            percent_spread([row.trimmed for row in rows]),
            percent_spread([row.top1 for row in rows]),
            spread_of([row.loss for row in rows], "{:.3f}"),
            percent_spread([row.agreement for row in rows]),
            spread_of([row.cpu_seconds for row in rows], "{:.3g}"),
            "the best rival" if arm == best else points(gap) if gap else "",
        )
