"""Write the page of third-party networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

from benchmarks.checks import LOW, CheckResult, chapter, reasons_of, share_text
from benchmarks.pages import fill

from .networks import LibraryNetwork


def page(networks: Sequence[LibraryNetwork], results: Mapping[str, CheckResult], sources: str) -> str:
    """Write the page: all libraries, a summary for each, and a line for each network."""
    here = {network.name: results[network.name] for network in networks if network.name in results}
    libraries = sorted({_library(network.name) for network in networks})
    names = sorted(network.name for network in networks)
    return fill(
        "libraries/page.md.jinja",
        version=version,
        low=LOW,
        all=chapter(list(here.values()), sources, len(networks)),
        libraries=[(library, *_counts(library, networks, here)) for library in libraries],
        networks=[_row(name, here.get(name), sources) for name in names],
    )


def _library(name: str) -> str:
    return name.partition("/")[0]


def _counts(library: str, networks: Sequence[LibraryNetwork], results: Mapping[str, CheckResult]) -> Iterable[str]:
    names = [network.name for network in networks if _library(network.name) == library]
    verdicts = Counter(results[name].verdict for name in names if name in results)
    told = (verdicts[verdict] for verdict in ("exact", "batch bound", "failed"))
    return map(str, (len(names), *told, len(names) - verdicts.total()))


def _row(name: str, result: CheckResult | None, sources: str) -> Sequence[str]:
    if result is None:
        return (name, *[""] * 5, "not checked yet", "")
    return (
        name + ("" if result.digest == sources else " †"),
        "" if result.parameters is None else f"{result.parameters / 1e6:.2f} M",
        result.capture or "",
        share_text(result.share),
        "" if result.error64 is None else f"{result.error64:.1e}",
        f"{result.seconds:.0f}",
        result.verdict,
        f"{result.stage}: {result.error}"[:200] if result.error else reasons_of(result),
    )
