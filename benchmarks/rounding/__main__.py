"""Measure the error of narrow networks in every format, in units of the wide one's rounding.

The unit: how far the wide network is from itself in float64, or with its channels in another order, if that is more.
Each network has its own process, the smallest first; an interrupted run continues.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import ROOT
from benchmarks.networks import read_classes
from benchmarks.pages import fill
from benchmarks.runs import add_limits, append_row, newest_rows, run_all
from benchmarks.sources import digest, sources
from benchmarks.trust_page import write_section

from .measure import FORMATS, PERMUTATIONS, RoundingTask, work

WORK = ROOT / "build" / "rounding"
JOURNAL = WORK / "results.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure networks and write the page, which also lists those that cannot be measured."""
    args = _parser().parse_args(argv)
    points = sorted(read_classes(), key=lambda point: point.parameters)
    names = [point.name for point in points][: args.classes]
    sha, before = digest(sources()), {} if args.again else newest_rows(JOURNAL, "model")
    wanted = {name: missing(before.get(name), args.compile) for name in names if not args.report}
    tasks = [
        (RoundingTask(name, formats), WORK / "logs" / f"{name}.log") for name, formats in wanted.items() if formats
    ]
    for task, facts in run_all(work, tasks, args, noun="network"):
        append_row(JOURNAL, {"model": task.model, **before.get(task.model, {}), "digest": sha, **facts})
    rows = newest_rows(JOURNAL, "model")
    present = sum(row["digest"] == sha for row in rows.values())
    write_section("Rounding", page(rows, len(points), present))
    print(f"{len(rows)} of {len(points)} classes measured; see docs/reports/trust.md")
    return 0


def missing(row: Mapping[str, Any] | None, compiles: bool) -> tuple[str, ...]:
    """List the formats that were not measured; none of a network that failed."""
    wanted = tuple(name for name in FORMATS if compiles or name != "compile")
    if row is None:
        return wanted
    refused = () if "onnx_refused" not in row else ("onnxruntime", "onnxruntime_plain")
    return () if "error" in row else tuple(name for name in wanted if name not in row and name not in refused)


def page(rows: Mapping[str, Mapping[str, Any]], classes: int, present: int) -> str:
    """Write the table by format, and the networks whose error is far above the unit."""
    good = {name: row for name, row in rows.items() if "float32" in row}
    failed = {name: why for name, row in rows.items() if (why := row.get("error") or row.get("onnx_refused"))}
    table = []
    for name in FORMATS:
        ratios = sorted(ratio for _, ratio in _ratios(good, name))
        refused = sum(1 for row in good.values() if name in row and not math.isfinite(row[name][0]))
        errors = [row[name][1] for row in good.values() if name in row and math.isfinite(row[name][1])]
        if ratios:
            spread = (
                f"{statistics.median(ratios):.2f}",
                f"{ratios[int(0.95 * (len(ratios) - 1))]:.2f}",
                f"{ratios[-1]:.1f}",
            )
            table.append((name, len(ratios), refused, *spread, f"{max(errors):.1e}"))
    head = ("format", "networks", "not finite when wide", "median", "95 %", "largest", "largest relative error")
    far = [
        f"`{model}` in {name}: {ratio:.1f}" for name in FORMATS for model, ratio in _ratios(good, name) if ratio > 10
    ]
    return fill(
        "rounding/page.md.jinja",
        permutations=PERMUTATIONS,
        done=len(good),
        classes=classes,
        present=present,
        left="the others were not reached." if len(rows) < classes else "none is left.",
        header=head,
        rows=table,
        far=far,
        failed=failed,
    )


def _ratios(rows: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[tuple[str, float]]:
    for model, row in rows.items():
        if name in row:
            unit, error = row[name]
            if math.isfinite(unit) and unit > 0:
                yield model, error / unit


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rounding", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", type=int, default=10**6, metavar="N", help="the smallest N only (default: all)")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too: a minute for each network")
    add_limits(parser, "network", seconds=900.0, jobs=False)
    parser.add_argument("--again", action="store_true", help="also networks that were measured")
    parser.add_argument("--report", action="store_true", help="measure nothing, only write the report")
    return parser


if __name__ == "__main__":
    sys.exit(main())
