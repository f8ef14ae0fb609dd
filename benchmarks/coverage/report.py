"""Write the page of all results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from statistics import median
from typing import Any

from benchmarks.checks.journal import known_at
from benchmarks.checks.reasons import reasons, reasons_of
from benchmarks.checks.result import Result
from benchmarks.networks.classes import EntryPoint
from benchmarks.networks.torchvision import FRAMES, PREFIX
from benchmarks.pages import fill
from fxprune.arguments.batches import ANY_BATCH

# A network of which less can be pruned needs a mathematical reason.
LOW = 0.6

HEADER = (
    *("model", "class", "parameters", "image", "capture", "groups", "prunable", "parameters after", "MACs after"),
    *("float64", "ONNX", "seconds", "verdict", "reasons"),
)


def page(
    points: Sequence[EntryPoint],
    torchvision: Sequence[EntryPoint],
    results: Mapping[str, Mapping[str, Result]],
    sources: str,
    grafts: Mapping[str, str] | None = None,
) -> str:
    """Write the page."""
    main, folds = known_at("onnx", results), results.get("fold", {})
    couple, exact = (
        [result for name, result in known_at(depth, results).items() if not name.startswith(PREFIX)]
        for depth in ("couple", "exact")
    )
    return fill(
        "coverage/page.md.jinja",
        version=version,
        low=LOW,
        frames=FRAMES,
        classes=_networks(points, main, sources, grafts or {}),
        folds=folds and _folds(points, folds, sources),
        couple=chapter(couple, sources),
        exact=chapter(exact, sources),
        families=any(point.name in main for point in torchvision) and _networks(torchvision, main, sources, {}),
    )


def _networks(
    points: Sequence[EntryPoint], results: Mapping[str, Result], sources: str, grafts: Mapping[str, str]
) -> Mapping[str, Any]:
    """Return a chapter with a line for each network, and whether it grafts."""
    here = [results[point.name] for point in points if point.name in results]
    tried = [grafts[point.name] for point in points if point.name in grafts]
    rows = [(*_row(point, results.get(point.name), sources), grafts.get(point.name, "")) for point in points]
    more = [("graft", f"{tried.count('grafts')} of {len(points)}")] if tried else []
    width = len(HEADER) + bool(tried)
    found = chapter(here, sources, len(points), more)
    return {**found, "header": (*HEADER, "graft")[:width], "networks": [row[:width] for row in rows]}


def _folds(points: Sequence[EntryPoint], results: Mapping[str, Result], sources: str) -> Mapping[str, Any]:
    """Return a chapter with the fold of each network."""
    here = [results[point.name] for point in points if point.name in results]
    header = "model", "class", "groups", "bare merge", "folded", "error left", "seconds", "verdict"
    rows = [(point, results[point.name]) for point in points if point.name in results]
    networks = [
        (
            point.name + ("" if result.digest == sources else " †"),
            f"{point.module}.{point.cls}",
            "" if result.groups is None else str(result.groups),
            *(_error(result.error_merged), _error(result.error_folded), percent(_error_left(result))),
            *(f"{result.seconds:.0f}", result.verdict),
        )
        for point, result in rows
    ]
    found = chapter(here, sources, len(points))
    return {**found, "reasons": [], "low": [], "header": header, "networks": networks}


def chapter(
    results: Sequence[Result], sources: str, expected: int = 0, more: Sequence[tuple[str, str]] = ()
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


def _summary(results: Sequence[Result], expected: int, sources: str) -> Iterable[tuple[str, str]]:
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
    yield from _statistic(results, "prunable, median", lambda r: r.share, median, percent)
    yield from _statistic(results, "prunable, least", lambda r: r.share, min, percent)
    yield from _statistic(results, "parameters after, median", _parameters_after, median, percent)
    yield from _statistic(results, "MACs after, median", _macs_after, median, percent)
    yield from _statistic(results, "float64, largest", lambda r: None if r.error else r.error64, max, _error)
    yield from _statistic(results, "ONNX, largest", lambda r: r.error_onnx, max, _error)
    yield from _statistic(results, "error left of the bare merge's, median", _error_left, median, percent)
    yield from _statistic(results, "error left, largest", _error_left, max, percent)
    ways = Counter(result.capture for result in results if result.capture)
    yield "capture", ", ".join(f"{way} {count}" for way, count in ways.most_common())
    yield from _statistic(results, "seconds, median", lambda r: r.seconds, median, "{:.0f}".format)


def _statistic(
    results: Iterable[Result],
    name: str,
    of: Callable[[Result], float | None],
    over: Callable[[list[float]], float],
    text: Callable[[float], str],
) -> Iterable[tuple[str, str]]:
    values = [value for result in results if (value := of(result)) is not None]
    if values:
        yield name, text(over(values))


def _failures(results: Iterable[Result]) -> Iterable[Sequence[str]]:
    for result in results:
        if result.error:
            yield result.model, result.stage, _clip(result.error, 300), _clip("; ".join(result.culprits), 200)


def _low(results: Iterable[Result]) -> Iterable[Sequence[str]]:
    low = [result for result in results if result.share is not None and result.share < LOW]
    for result in sorted(low, key=lambda result: result.share or 0.0):
        yield result.model, percent(result.share), reasons_of(result, most=4)


def _row(point: EntryPoint, result: Result | None, sources: str) -> Sequence[str]:
    known = result or Result(model=point.name, depth="onnx", digest=sources)
    return (
        point.name + ("" if known.digest == sources else " †"),
        f"{point.module}.{point.cls}",
        f"{point.parameters / 1e6:.2f} M",
        str(known.image or point.input_size),
        known.capture or "",
        "" if known.groups is None else str(known.groups),
        percent(known.share),
        percent(_parameters_after(known)),
        percent(_macs_after(known)),
        _error(known.error64),
        _error(known.error_onnx),
        f"{known.seconds:.0f}" if result else "",
        known.verdict if result else "not checked yet",
        reasons_of(known),
    )


def _parameters_after(result: Result) -> float | None:
    return None if result.parameters_after is None else result.parameters_after / (result.parameters or 1)


def _macs_after(result: Result) -> float | None:
    return None if result.macs_after is None else result.macs_after / (result.macs or 1)


def _error_left(result: Result) -> float | None:
    if result.error_merged is None or result.error_folded is None:
        return None
    return result.error_folded / max(result.error_merged, 1e-300)


def percent(share: float | None) -> str:
    """Write a share; an empty text for none."""
    return "" if share is None else f"{share:.1%}"


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
