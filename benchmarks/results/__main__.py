"""Compare C-SGD with other methods on real images, and write ``docs/reports/results.md``.

Each arm and seed runs in one process. All arms of the first seed run first, then those of the next. Results in
``docs/reports/results.csv`` are not repeated: an interrupted run continues, and ``--seeds 5`` adds two seeds to three.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks import ROOT
from benchmarks.process import Limits, run_each
from fxprune.common.files import write_text

from .bench import Task
from .journal import Journal, row_of
from .report import page
from .run import run
from .settings import ARMS, QUICK, Arm, Settings

WORK = ROOT / "build" / "results"
DOCS = ROOT / "docs" / "reports"
GIB = 2**30
PRELOAD = ("benchmarks.results.run", "sklearn.cluster", "timm.optim", "timm.scheduler")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the missing arms and write the page; the exit code is 1 if an arm failed."""
    args = _parser().parse_args(argv)
    settings = QUICK if args.quick else Settings()
    output = args.output or (WORK / "quick" if args.quick else DOCS)
    arms = [arm for arm in ARMS if fnmatch.fnmatch(str(arm), args.only)]
    if not arms:
        print(f"no arm is called `{args.only}`; there are {', '.join(map(str, ARMS))}", file=sys.stderr)
        return 2
    seeds = range(args.seeds or (1 if args.quick else 3))
    journal = Journal(output / "results.csv")
    todo = [] if args.report else journal.missing(arms, seeds, settings)
    failed = run_arms(todo, settings, journal, output, args)
    write_text(output / "results.md", page(journal, ARMS, settings))
    print(f"{len(todo)} arms run, {failed} failed; see {os.path.relpath(output / 'results.md')}")
    return 1 if failed else 0


def run_arms(
    todo: Sequence[tuple[Arm, int]], settings: Settings, journal: Journal, output: Path, args: argparse.Namespace
) -> int:
    """Run arms, update the table after each one, and return the number of failures."""
    tasks = []
    for arm, seed in todo:
        log = WORK / "logs" / f"{settings.data}-{seed}-{arm.name}-{arm.keep.replace('/', 'of')}.log"
        tasks.append((Task(arm, seed, settings, WORK, args.threads), log))
    failed = 0
    limits = Limits(args.seconds, int(args.memory * GIB))
    with tqdm(total=len(tasks), unit="arm", disable=None) as bar:
        for task, facts in run_each(run, tasks, limits, jobs=args.jobs, preload=PRELOAD):
            row = row_of(task.arm, task.seed, settings, facts)
            journal.add(row)
            write_text(output / "results.md", page(journal, ARMS, settings))
            outcome = row.error or (f"top-1 {row.top1:.2%}" if row.top1 is not None else "measured")
            bar.write(f"seed {task.seed}, {task.arm}: {outcome}, {facts['seconds']:.0f} s", file=sys.stderr)
            bar.update()
            failed += bool(row.error)
    return failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="results", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small images and one seed, into build/results/quick")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N - 1 (default: 3; with --quick: 1)")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="arms with such a name, as in `csgd *`")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the table lies (default: docs)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="arms at a time (default: 1)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of each (default: 1)")
    parser.add_argument("--seconds", type=float, default=7200.0, help="time for one arm (default: 7200)")
    parser.add_argument("--memory", type=float, default=8.0, metavar="GIB", help="memory for one arm (default: 8)")
    parser.add_argument("--report", action="store_true", help="run nothing, only write the report")
    return parser


if __name__ == "__main__":
    sys.exit(main())
