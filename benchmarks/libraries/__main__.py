"""Check networks of third-party libraries, and write ``docs/reports/libraries.*``.

Each network has its own process. An interrupted run continues from the committed results; networks with a result of
earlier sources are checked again. The libraries are in the extra ``zoo``; ultralytics is under the AGPL.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Sequence

from benchmarks import ROOT
from benchmarks.checks import CheckJournal, lines, read_lines
from benchmarks.runs import parser_of, run_all
from benchmarks.sources import digest
from benchmarks.sources import sources as imported
from fxprune.common.files import write_text

from .check import LibraryTask, check
from .networks import read
from .report import page

WORK = ROOT / "build" / "libraries"
DOCS = ROOT / "docs" / "reports"
DEPTH = "exact"


def main(argv: Sequence[str] | None = None) -> int:
    """Check networks and write the page; the exit code is 1 if a network failed."""
    args = _parser().parse_args(argv)
    networks = {network.name: network for network in read() if fnmatch.fnmatch(network.name, args.only)}
    if not networks:
        print(f"no network is called `{args.only}`", file=sys.stderr)
        return 2
    journal, sources = _journal(), digest(imported())
    known = journal.known(DEPTH)
    todo = list(networks) if args.again else journal.missing(networks, DEPTH, sources)
    if args.failed:
        todo = [name for name in todo if name not in known or known[name].error]
    tasks = [(LibraryTask(networks[name]), WORK / "logs" / f"{name}.log") for name in ([] if args.report else todo)]
    preload = ("benchmarks.libraries.check", *sorted({networks[name].call.partition(".")[0] for name in todo}))
    journal.keep(run_all(check, tasks, args, noun="network", preload=preload), DEPTH, sources)
    journal = _journal()  # another run may have added to it
    write_text(DOCS / "libraries.md", page(read(), journal.known(DEPTH), sources))
    write_text(DOCS / "libraries.csv", lines(journal.standing()))
    failed = [name for name, result in journal.known(DEPTH).items() if name in networks and result.error]
    print(f"{len(tasks)} networks checked; {len(failed)} failed; see {DOCS}/libraries.md")
    return 1 if failed else 0


def _journal() -> CheckJournal:
    return CheckJournal(WORK / "results.jsonl", read_lines(DOCS / "libraries.csv"))


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("coverage --libraries", __doc__, "network", "monai/*", seconds=300.0)
    parser.add_argument("--failed", action="store_true", help="only those without a result, or whose check failed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
