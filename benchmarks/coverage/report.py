"""Write the page of all results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from benchmarks.checks import (
    LOW,
    CheckResult,
    chapter,
    error_left,
    error_text,
    known_at,
    macs_after,
    parameters_after,
    reasons_of,
    share_text,
)
from benchmarks.networks import FRAMES, PREFIX, EntryPoint
from benchmarks.pages import fill

HEADER = (
    *("model", "class", "parameters", "image", "capture", "groups", "prunable", "parameters after", "MACs after"),
    *("float64", "ONNX", "seconds", "verdict", "reasons"),
)


def page(
    points: Sequence[EntryPoint],
    torchvision: Sequence[EntryPoint],
    results: Mapping[str, Mapping[str, CheckResult]],
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
    points: Sequence[EntryPoint], results: Mapping[str, CheckResult], sources: str, grafts: Mapping[str, str]
) -> Mapping[str, Any]:
    """Return a chapter with a line for each network, and whether it grafts."""
    here = [results[point.name] for point in points if point.name in results]
    tried = [grafts[point.name] for point in points if point.name in grafts]
    rows = [(*_row(point, results.get(point.name), sources), grafts.get(point.name, "")) for point in points]
    more = [("graft", f"{tried.count('grafts')} of {len(points)}")] if tried else []
    width = len(HEADER) + bool(tried)
    found = chapter(here, sources, len(points), more)
    return {**found, "header": (*HEADER, "graft")[:width], "networks": [row[:width] for row in rows]}


def _folds(points: Sequence[EntryPoint], results: Mapping[str, CheckResult], sources: str) -> Mapping[str, Any]:
    """Return a chapter with the fold of each network."""
    here = [results[point.name] for point in points if point.name in results]
    header = "model", "class", "groups", "bare merge", "folded", "error left", "seconds", "verdict"
    rows = [(point, results[point.name]) for point in points if point.name in results]
    networks = [
        (
            point.name + ("" if result.digest == sources else " †"),
            f"{point.module}.{point.cls}",
            "" if result.groups is None else str(result.groups),
            *(error_text(result.error_merged), error_text(result.error_folded), share_text(error_left(result))),
            *(f"{result.seconds:.0f}", result.verdict),
        )
        for point, result in rows
    ]
    found = chapter(here, sources, len(points))
    return {**found, "reasons": [], "low": [], "header": header, "networks": networks}


def _row(point: EntryPoint, result: CheckResult | None, sources: str) -> Sequence[str]:
    known = result or CheckResult(model=point.name, depth="onnx", digest=sources)
    return (
        point.name + ("" if known.digest == sources else " †"),
        f"{point.module}.{point.cls}",
        f"{point.parameters / 1e6:.2f} M",
        str(known.image or point.input_size),
        known.capture or "",
        "" if known.groups is None else str(known.groups),
        share_text(known.share),
        share_text(parameters_after(known)),
        share_text(macs_after(known)),
        error_text(known.error64),
        error_text(known.error_onnx),
        f"{known.seconds:.0f}" if result else "",
        known.verdict if result else "not checked yet",
        reasons_of(known),
    )
