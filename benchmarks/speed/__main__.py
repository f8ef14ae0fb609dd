"""Measure every figure in a process of its own; write ``docs/reports/benchmarks.md``.

An interrupted run continues. Torch-Pruning, from the extra ``benchmarks``, is the peer of the analysis.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import ROOT
from benchmarks.machine import machine
from benchmarks.runs import measure_and_report, parser_of

from .figures import FIGURES, measure
from .page import page

WORK = ROOT / "build" / "benchmarks"
JOURNAL = WORK / "results.jsonl"
PAGE = ROOT / "docs" / "reports" / "benchmarks.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing and write the page; the exit code is 1 if a figure failed."""
    args = parser_of("benchmarks", __doc__ or "", "figure", "hook *", seconds=600.0, jobs=False).parse_args(argv)
    return measure_and_report(measure, FIGURES, JOURNAL, args, (PAGE, page), machine=machine())


if __name__ == "__main__":
    sys.exit(main())
