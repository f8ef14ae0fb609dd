"""Report the time of a step of C-SGD relative to plain SGD, at each measured batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean

from .cells import spread_of
from .claims import Found
from .journal import ArmRow
from .settings import CLOCKS, Settings

TITLE = "C-SGD is as fast as SGD"


def time_verdicts(found: Found, settings: Settings) -> Iterator[Sequence[str]]:
    """Yield one line per batch size: the claim, the width, the verdict."""
    for batch, rows in _timed(found, settings):
        ratios = _ratios(rows)
        yield TITLE, f"5/8, batch {batch}", f"{_verdict(ratios)} ({spread_of(ratios, '{:.3f}')} times as long)"


def time_rows(found: Found, settings: Settings) -> Iterator[Sequence[str]]:
    """Yield one row per batch size: ratio, milliseconds, seeds, verdict."""
    for batch, rows in _timed(found, settings):
        pulled, plain = (mean(getattr(row, name) for row in rows) for name in ("csgd_ms", "sgd_ms"))
        ratios = _ratios(rows)
        cells = str(batch), spread_of(ratios, "{:.3f}"), f"{pulled:.0f} ms", f"{plain:.0f} ms", str(len(rows))
        yield *cells, f"**{_verdict(ratios)}**"


def _timed(found: Found, settings: Settings) -> Iterator[tuple[int, list[ArmRow]]]:
    for arm, rows in found.items():
        timed = [row for row in rows if row.sgd_ms and row.csgd_ms]
        if arm.name in CLOCKS and timed:
            yield CLOCKS[arm.name] or settings.batch_size, timed


def _ratios(rows: Sequence[ArmRow]) -> list[float]:
    return [(row.csgd_ms or 0.0) / (row.sgd_ms or 1.0) for row in rows]


def _verdict(ratios: Sequence[float]) -> str:
    return "shown" if max(ratios) < 1.05 else "not shown" if min(ratios) < 1.05 else "contradicted"
