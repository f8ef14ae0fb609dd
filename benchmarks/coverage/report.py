"""Write the page of all results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from statistics import median

from benchmarks.tables import markdown_table

from .classes import EntryPoint
from .journal import known_at
from .reasons import reasons, reasons_of
from .result import Result
from .torchvision import FRAMES, PREFIX

# A network of which less can be pruned needs a mathematical reason.
LOW = 0.6

HEAD = """# Coverage of timm

The smallest network of each model class of timm {timm}, checked with PyTorch {torch} and onnxruntime {onnxruntime}:
random weights and running statistics, every group of channels merged to half its width in clusters drawn at random, at
the smallest image from half the published size on that the network takes.

| column | holds |
| --- | --- |
| capture | how the graph was found: `symbolic`, `concrete` where branches were decided by the example, or `export` where only operations could be seen |
| prunable | share of the weights that lie in a row or a column of some group |
| parameters, MACs after | of the narrow network, as a share of the wide one; 25 % where rows and columns are halved |
| float64 | largest difference of narrow and snapped wide network at batches of 1, 2 and 3, over the largest output; at most 1e-9 |
| ONNX | the same of onnxruntime and PyTorch on the narrow network in float32, at batches of 1 and 3; at most 1e-4 |
| reasons | what keeps weights from merging, with the share of the weights concerned |
| graft | whether `fxprune.graft` puts the narrow layers back into the class; [graft.md](graft.md) says why not |

`make coverage` checks what has changed since and writes this page and `coverage.csv`, which has every column and every
network; `make coverage ARGS=--all` analyses all entry points, on the meta device and at the published image, unless a
check in float64 has analysed them since; `ARGS='--all --depth exact --limit-params 100e6'` is that check.
"""  # noqa: E501

TORCHVISION = """# Coverage of torchvision

The smallest network of each family of torchvision {torchvision}, by the same checks at images of 64 to 320 pixels:
classification, segmentation with its auxiliary outputs, video at {frames} frames, optical flow of two images. Of
detectors the part with weights, backbone and heads on given boxes as one network; between those, boxes are picked.
`make coverage ARGS=--torchvision` checks them.
"""

REASONS = ("reason", "weights", "networks", "most of them in")
FAILURES = ("model", "stage", "error", "culprits")
LOWEST = ("model", "prunable", "reasons")
NETWORKS = (
    *("model", "class", "parameters", "image", "capture", "groups", "prunable", "parameters after", "MACs after"),
    *("float64", "ONNX", "seconds", "verdict", "reasons"),
)
GRAFT = "graft"


def page(
    points: Sequence[EntryPoint],
    torchvision: Sequence[EntryPoint],
    results: Mapping[str, Mapping[str, Result]],
    sources: str,
    grafts: Mapping[str, str] | None = None,
) -> str:
    """Write the page."""
    folded = {name: result for name, result in results.get("fold", {}).items() if not result.error}
    main = known_at("onnx", results) | folded
    timm = {
        depth: [result for name, result in known_at(depth, results).items() if not name.startswith(PREFIX)]
        for depth in ("couple", "exact")
    }
    parts = [
        HEAD.format_map({name: version(name) for name in ("timm", "torch", "onnxruntime")}),
        *_networks("The smallest network of each class", points, main, sources, grafts or {}),
        chapter("Every entry point, analysed", timm["couple"], sources),
        chapter("Entry points that were built and checked in float64", timm["exact"], sources),
    ]
    if any(point.name in main for point in torchvision):
        parts += [
            TORCHVISION.format(torchvision=version("torchvision"), frames=FRAMES),
            *_networks("The smallest network of each family", torchvision, main, sources),
        ]
    return "\n".join(part for part in parts if part)


def _networks(
    title: str,
    points: Sequence[EntryPoint],
    results: Mapping[str, Result],
    sources: str,
    grafts: Mapping[str, str] | None = None,
) -> Iterable[str]:
    here = [results[point.name] for point in points if point.name in results]
    tried = [grafts[point.name] for point in points if grafts and point.name in grafts]
    yield chapter(title, here, sources, len(points), tried)
    rows = [(*_row(point, results.get(point.name), sources), (grafts or {}).get(point.name, "")) for point in points]
    width = len(NETWORKS) + bool(tried)
    yield table("### Networks", (*NETWORKS, GRAFT)[:width], (row[:width] for row in rows))


def chapter(title: str, results: Sequence[Result], sources: str, expected: int = 0, grafts: Sequence[str] = ()) -> str:
    """Write what holds of all results: numbers, failures, and why weights may not merge."""
    if not results and not expected:
        return ""
    parts = [
        table(f"## {title}", ("", ""), [*_summary(results, expected, sources), *_grafts(grafts, expected)]),
        table("### Failed", FAILURES, _failures(results)),
        table(f"### Less than {LOW:.0%} prunable", LOWEST, _low(results)),
        table("### Why weights may not merge", REASONS, _reasons(results)),
    ]
    return "\n".join(part for part in parts if part)


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
    yield from _statistic(results, "fold: error left of the bare merge's, median", _error_left, median, percent)
    ways = Counter(result.capture for result in results if result.capture)
    yield "capture", ", ".join(f"{way} {count}" for way, count in ways.most_common())
    yield from _statistic(results, "seconds, median", lambda r: r.seconds, median, "{:.0f}".format)


def _grafts(verdicts: Sequence[str], expected: int) -> Iterable[tuple[str, str]]:
    if verdicts:
        yield GRAFT, f"{verdicts.count('grafts')} of {expected}"


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


def _reasons(results: Sequence[Result]) -> Iterable[Sequence[str]]:
    for reason in reasons(results)[:40]:
        yield reason.why, f"{reason.weights:,}", str(reason.models), reason.dearest


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


def table(heading: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a heading and a table; an empty text without rows."""
    lines = list(rows)
    return "\n".join([heading, "", markdown_table(header, lines), ""]) if lines else ""


def percent(share: float | None) -> str:
    """Write a share; an empty text for none."""
    return "" if share is None else f"{share:.1%}"


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
