"""The tables of what holds of many results, as one chapter of a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from fxprune.arguments.batches import ANY_BATCH

from .reasons import reasons, reasons_of
from .result import CheckResult

# A network of which less can be pruned needs a mathematical reason.
LOW = 0.6


def chapter(
    results: Sequence[CheckResult], sources: str, expected: int = 0, more: Sequence[tuple[str, str]] = ()
) -> Mapping[str, Any]:
    """Return the tables of what holds of all results; nothing without any."""
    if not results and not expected:
        return {}
    return {
        "summary": [*_summary(results, expected, sources), *more],
        "failed": [*_failures(results)],
        "bound": [(each.model, each.batches) for each in results if each.batches not in (None, str(ANY_BATCH))],
        "low": [*_low(results)],
        "reasons": [(r.why, f"{r.weights:,}", str(r.models), r.dearest) for r in reasons(results)[:40]],
        "networks": [],
    }


def _summary(results: Sequence[CheckResult], expected: int, sources: str) -> Iterable[tuple[str, str]]:
    yield "networks", str(expected or len(results))
    verdicts = Counter(result.verdict for result in results)
    yield from ((verdict, str(count)) for verdict, count in verdicts.most_common())
    if len(results) < expected:
        yield "not checked yet", str(expected - len(results))
    if stale := sum(result.digest != sources for result in results):
        yield "of earlier sources (†)", str(stale)
        newest = max(results, key=lambda result: result.checked)
        same = sum(result.digest == newest.digest for result in results)
        yield "of the same sources as the newest result", f"{same}, of {newest.checked[:10]}"
    yield from _statistic(results, "prunable, median", lambda r: r.share, median, share_text)
    yield from _statistic(results, "prunable, least", lambda r: r.share, min, share_text)
    yield from _statistic(results, "parameters after, median", parameters_after, median, share_text)
    yield from _statistic(results, "MACs after, median", macs_after, median, share_text)
    yield from _statistic(results, "float64, largest", lambda r: None if r.error else r.error64, max, error_text)
    yield from _statistic(results, "ONNX, largest", lambda r: r.error_onnx, max, error_text)
    yield from _statistic(results, "error left of the bare merge's, median", error_left, median, share_text)
    yield from _statistic(results, "error left, largest", error_left, max, share_text)
    ways = Counter(result.capture for result in results if result.capture)
    yield "capture", ", ".join(f"{way} {count}" for way, count in ways.most_common())
    yield from _statistic(results, "seconds, median", lambda r: r.seconds, median, "{:.0f}".format)


def _statistic(
    results: Iterable[CheckResult],
    name: str,
    of: Callable[[CheckResult], float | None],
    over: Callable[[list[float]], float],
    text: Callable[[float], str],
) -> Iterable[tuple[str, str]]:
    values = [value for result in results if (value := of(result)) is not None]
    if values:
        yield name, text(over(values))


def _failures(results: Iterable[CheckResult]) -> Iterable[Sequence[str]]:
    for result in results:
        if result.error:
            yield result.model, result.stage, _clip(result.error, 300), _clip("; ".join(result.culprits), 200)


def _low(results: Iterable[CheckResult]) -> Iterable[Sequence[str]]:
    low = [result for result in results if result.share is not None and result.share < LOW]
    for result in sorted(low, key=lambda result: result.share or 0.0):
        yield result.model, share_text(result.share), reasons_of(result, most=4)


def parameters_after(result: CheckResult) -> float | None:
    """Return the share of the parameters that stay."""
    return None if result.parameters_after is None else result.parameters_after / (result.parameters or 1)


def macs_after(result: CheckResult) -> float | None:
    """Return the share of the MACs that stay."""
    return None if result.macs_after is None else result.macs_after / (result.macs or 1)


def error_left(result: CheckResult) -> float | None:
    """Return the share of the bare merge's error that the fold leaves."""
    if result.error_merged is None or result.error_folded is None:
        return None
    return result.error_folded / max(result.error_merged, 1e-300)


def share_text(share: float | None) -> str:
    """Write a share; an empty text for none."""
    return "" if share is None else f"{share:.1%}"


def error_text(error: float | None) -> str:
    """Write an error; an empty text for none."""
    return "" if error is None else f"{error:.1e}"


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
