"""Run the missing arms of a table, each in one process, and write its page."""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import ROOT
from benchmarks.runs import add_limits, run_all
from fxprune.common.files import write_text
from fxprune.errors import DataError

from .bench import ArmTask
from .journal import ArmJournal, ArmRow, row_of
from .settings import Arm, Settings

BUILD = ROOT / "build"
DOCS = ROOT / "docs" / "reports"


@dataclass(frozen=True)
class Table:
    """A table of arms and seeds, and how its rows are made.

    Attributes:
        name: of its files, and of its folder in ``build``.
        says: one line for ``--help``.
        arms: in the order in which they run.
        settings: of the committed table.
        quick: of a look within minutes, with one seed.
        seeds: how many by default.
        run: ``run(task, record)``, a function of a module.
        page: writes the page of a journal.
        kind: of a row.
        preload: modules that hold what ``run`` needs.
        check: raises DataError if something is missing that arms need; called before any of them runs.
        figure: draws a journal into a file, when all arms have run.
    """

    name: str
    says: str
    arms: Sequence[Arm]
    settings: Settings
    quick: Settings
    seeds: int
    run: Callable[[ArmTask, Callable[..., None]], None]
    page: Callable[[ArmJournal[Any], Sequence[Arm], Settings], str]
    kind: type[ArmRow] = ArmRow
    preload: Sequence[str] = ()
    check: Callable[[], None] = lambda: None
    figure: Callable[[ArmJournal[Any], Sequence[Arm], Settings, Path], None] = lambda *_: None


def run_table(table: Table, argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page; the exit code is 1 if an arm failed."""
    args = _parser(table).parse_args(argv)
    settings = table.quick if args.quick else table.settings
    output = args.output or (BUILD / table.name / "quick" if args.quick else DOCS)
    arms = [arm for arm in table.arms if fnmatch.fnmatch(str(arm), args.only)]
    if not arms:
        print(f"no arm is called `{args.only}`; there are {', '.join(map(str, table.arms))}", file=sys.stderr)
        return 2
    seeds = range(args.seeds or (1 if args.quick else table.seeds))
    journal = ArmJournal(output / f"{table.name}.csv", table.kind)
    todo = [] if args.report else journal.missing(arms, seeds, settings)
    try:
        if todo:
            table.check()
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    page = output / f"{table.name}.md"
    failed = _run(table, todo, settings, journal, page, args)
    write_text(page, table.page(journal, table.arms, settings))
    table.figure(journal, table.arms, settings, page.with_suffix(".svg"))
    print(f"{len(todo)} arms run, {failed} failed; see {os.path.relpath(page)}")
    return 1 if failed else 0


def _run(
    table: Table,
    todo: Sequence[tuple[Arm, int]],
    settings: Settings,
    journal: ArmJournal[Any],
    page: Path,
    args: argparse.Namespace,
) -> int:
    """Run arms, update the table after each one, and return the number of failures."""
    tasks, work = [], BUILD / table.name
    for arm, seed in todo:
        log = work / "logs" / f"{settings.data}-{seed}-{arm.name}-{arm.keep.replace('/', 'of')}.log"
        tasks.append((ArmTask(arm, seed, settings, work, args.threads), log))
    failed = 0
    for task, facts in run_all(table.run, tasks, args, noun="arm", preload=table.preload):
        row = row_of(task.arm, task.seed, settings, facts, table.kind)
        journal.add(row)
        write_text(page, table.page(journal, table.arms, settings))
        outcome = row.error or (f"top-1 {row.top1:.2%}" if row.top1 is not None else "measured")
        tqdm.write(f"seed {task.seed}, {task.arm}: {outcome}, {facts['seconds']:.0f} s", file=sys.stderr)
        failed += bool(row.error)
    return failed


def _parser(table: Table) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=table.name, description=table.says)
    where = f"build/{table.name}/quick"
    parser.add_argument("--quick", action="store_true", help=f"small images and one seed, into {where}")
    seeds = f"seeds 0 to N - 1 (default: {table.seeds}; with --quick: 1)"
    parser.add_argument("--seeds", type=int, metavar="N", help=seeds)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="arms with such a name, as in `csgd *`")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the table lies (default: docs)")
    add_limits(parser, "arm", seconds=7200.0)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of each (default: 1)")
    parser.add_argument("--report", action="store_true", help="run nothing, only write the report")
    return parser
