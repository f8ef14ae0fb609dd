"""Write the page of third-party networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

from benchmarks.coverage.reasons import reasons_of
from benchmarks.coverage.report import chapter, percent, table
from benchmarks.coverage.result import Result

from .networks import Network

HEAD = """# Coverage of other libraries

Small networks of libraries that fxprune does not know, with PyTorch {torch}: random weights and running statistics,
every group of channels merged to half its width in clusters drawn at random, in float64 at batches of 1, 2 and 3. The
narrow network must equal the snapped one to 1e-9, or the network is refused with a reason. `exact` counts only networks
whose batch stays dynamic.

`make coverage ARGS=--libraries` checks what has changed since, and writes this page and `libraries.csv`. The libraries
are in the extra `zoo`; none of them is a dependency. ultralytics, under the AGPL, serves as a user's tool: nothing of
it is copied.
"""

COLUMNS = ("network", "parameters", "capture", "prunable", "float64", "seconds", "verdict", "reasons")


def page(networks: Sequence[Network], results: Mapping[str, Result], sources: str) -> str:
    """Write the page: all libraries, a summary for each, and a line for each network."""
    here = {network.name: results[network.name] for network in networks if network.name in results}
    libraries = sorted({_library(network.name) for network in networks})
    parts = [
        HEAD.format(torch=version("torch")),
        chapter("All networks", list(here.values()), sources, len(networks)),
        table("## Libraries", ("library", "networks", "exact", "failed", "not checked yet"), (
            (library, *_counts(library, networks, here)) for library in libraries
        )),
        table("## Networks", COLUMNS, (
            _row(network.name, here.get(network.name), sources)
            for network in sorted(networks, key=lambda network: network.name)
        )),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _library(name: str) -> str:
    return name.partition("/")[0]


def _counts(library: str, networks: Sequence[Network], results: Mapping[str, Result]) -> Iterable[str]:
    names = [network.name for network in networks if _library(network.name) == library]
    verdicts = Counter(results[name].verdict for name in names if name in results)
    return map(str, (len(names), verdicts["exact"], verdicts["failed"], len(names) - verdicts.total()))


def _row(name: str, result: Result | None, sources: str) -> Sequence[str]:
    if result is None:
        return (name, *[""] * (len(COLUMNS) - 3), "not checked yet", "")
    return (
        name + ("" if result.digest == sources else " †"),
        "" if result.parameters is None else f"{result.parameters / 1e6:.2f} M",
        result.capture or "",
        percent(result.share),
        "" if result.error64 is None else f"{result.error64:.1e}",
        f"{result.seconds:.0f}",
        result.verdict,
        f"{result.stage}: {result.error}"[:200] if result.error else reasons_of(result),
    )
