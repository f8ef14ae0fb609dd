"""Check networks of timm or torchvision, and write ``docs/reports/coverage.*``.

Each network has its own process. Without options, the run checks the smallest network of each model class, from capture
to the exported file. An interrupted run continues, on any machine, from the committed results. Networks with a result
of earlier sources are checked again.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
from collections.abc import Sequence

from benchmarks import ROOT
from benchmarks.checks import DEPTHS, CheckJournal, CheckTask, check, lines, read_lines
from benchmarks.grafts import read_grafts
from benchmarks.networks import entry_points, read_classes, torchvision_points
from benchmarks.runs import parser_of, run_all
from benchmarks.sources import digest
from benchmarks.sources import sources as imported
from fxprune.common.files import write_text

from .report import page

WORK = ROOT / "build" / "coverage"
DOCS = ROOT / "docs" / "reports"


def main(argv: Sequence[str] | None = None) -> int:
    """Check networks and write the page; the exit code is 1 if a network failed."""
    given = list(sys.argv[1:] if argv is None else argv)
    if "--libraries" in given:
        from benchmarks.libraries.__main__ import main as check_libraries

        return check_libraries([each for each in given if each != "--libraries"])
    args = _parser().parse_args(given)
    depth = args.depth or ("couple" if args.all else "onnx")
    names = fnmatch.filter(_names(args), args.only)
    if not names:
        print(f"no network is called `{args.only}`; leave out --only, or add --all", file=sys.stderr)
        return 2
    journal, sources = _journal(), digest(imported())
    todo = [] if args.report else names if args.again else journal.missing(names, depth, sources)
    threads = args.threads or max(1, (os.cpu_count() or 1) // args.jobs)
    tasks = [
        (CheckTask(name, depth, args.limit_params, threads), WORK / "logs" / f"{name}.{depth}.log") for name in todo
    ]
    checked = journal.keep(run_all(check, tasks, args, noun="network"), depth, sources)
    journal = _journal()  # another run may have added to it
    write_report(journal, sources)
    failed = [result.model for result in journal.known(depth).values() if result.model in names and result.error]
    print(f"{checked} networks checked, {len(names) - checked} skipped; {len(failed)} failed; see {DOCS}/coverage.md")
    return 1 if failed else 0


def _names(args: argparse.Namespace) -> list[str]:
    """List the networks, the small ones first if only some are checked."""
    if args.all:
        return [name for _, name in entry_points()]
    points = torchvision_points() if args.torchvision else read_classes()
    return [point.name for point in sorted(points, key=lambda point: point.parameters)]


def _journal() -> CheckJournal:
    """Read the results of this machine, and committed ones that are newer."""
    return CheckJournal(WORK / "results.jsonl", read_lines(DOCS / "coverage.csv"))


def write_report(journal: CheckJournal, sources: str) -> None:
    """Write the page and the lines of all newest results."""
    results = journal.standing()
    grafts = {model: row["verdict"] for model, row in read_grafts(DOCS / "graft.csv").items()}
    write_text(DOCS / "coverage.md", page(read_classes(), torchvision_points(), results, sources, grafts))
    write_text(DOCS / "coverage.csv", lines(results))


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("coverage", __doc__, "network", "resnet*", seconds=1800.0)
    parser.add_argument(
        "--all", action="store_true", help="every entry point, by default only analysed, without weights"
    )
    parser.add_argument("--torchvision", action="store_true", help="the smallest network of each family of torchvision")
    parser.add_argument("--libraries", action="store_true", help="networks of other libraries (see --libraries --help)")
    parser.add_argument("--depth", choices=DEPTHS, help="how far to go (default: onnx; with --all: couple)")
    parser.add_argument(
        "--limit-params", type=float, default=float("inf"), metavar="N", help="no larger ones, as in 30e6"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of each (default: processors / jobs)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
