"""Format cells of tables: means, spreads, shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean, stdev


def percent_spread(values: Sequence[float | None]) -> str:
    return spread_of([None if value is None else 100 * value for value in values], "{:.2f}", " %")


def spread_of(values: Iterable[float | None], form: str, unit: str = "") -> str:
    """Format mean and sample standard deviation; an empty text without values."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    text: Callable[[float], str] = form.format
    return text(mean(known)) + (f" ± {text(stdev(known))}" if len(known) > 1 else "") + unit


def mean_of(values: Sequence[int | None], unit: float, form: str) -> str:
    """Format the mean of values that differ a little if each seed chooses its own widths."""
    known = [value for value in values if value is not None]
    return form.format(mean(known) / unit) if known else ""
