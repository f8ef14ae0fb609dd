"""Measure every figure in a process of its own; write ``docs/reports/benchmarks.md``.

An interrupted run continues. Torch-Pruning, from the extra ``benchmarks``, is the peer of the analysis.
"""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from tqdm import tqdm

from benchmarks import ROOT
from benchmarks.runs import append_row, parser_of, read_rows, run_all
from fxprune.common.files import write_text

from .figures import FIGURES, measure
from .page import machine, page

WORK = ROOT / "build" / "benchmarks"
JOURNAL = WORK / "results.jsonl"
PAGE = ROOT / "docs" / "reports" / "benchmarks.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing and write the page; the exit code is 1 if a figure failed."""
    args = parser_of("benchmarks", __doc__ or "", "figure", "hook *", seconds=600.0, jobs=False).parse_args(argv)
    known = {row["figure"] for row in read_rows(JOURNAL) if "error" not in row}
    wanted = [name for name in FIGURES if fnmatch.fnmatch(name, args.only) and (args.again or name not in known)]
    tasks = [(name, WORK / "logs" / f"{name.replace(' ', '_')}.log") for name in wanted if not args.report]
    for name, facts in run_all(measure, tasks, args, noun="figure", preload=("benchmarks.speed.figures",)):
        append_row(JOURNAL, {"figure": name, "day": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(), **facts})
        tqdm.write(f"{name}: {facts.get('error') or facts}")
    rows = {row["figure"]: row for row in read_rows(JOURNAL)}
    write_text(PAGE, page(rows))
    failed = [name for name in FIGURES if "error" in rows.get(name, {})]
    print(f"{len(tasks)} figures measured; {len(failed)} failed; see {PAGE}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
