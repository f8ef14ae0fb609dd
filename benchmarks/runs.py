"""Run the tasks of a command within limits, with a bar and a journal from which it resumes."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fxprune.common.files import write_text

from .process import PRELOAD, Facts, Limits, T, run_each

GIB = 2**30


def add_limits(parser: argparse.ArgumentParser, noun: str, *, seconds: float, jobs: bool = True) -> None:
    """Add the limits of one task, a ``noun``, and how many run at a time."""
    if jobs:
        parser.add_argument("--jobs", type=int, default=1, metavar="N", help=f"{noun}s at a time (default: 1)")
    about = f"time for one {noun} (default: {seconds:g})"
    parser.add_argument("--seconds", type=float, default=seconds, help=about)
    parser.add_argument("--memory", type=float, default=8.0, metavar="GIB", help=f"memory for one {noun} (default: 8)")


def parser_of(
    prog: str, about: str, noun: str, like: str, *, seconds: float, jobs: bool = True
) -> argparse.ArgumentParser:
    """Make a parser of what all commands take: which tasks run, and within which limits."""
    parser = argparse.ArgumentParser(prog=prog, description=about.splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help=f"{noun}s with such a name, as in `{like}`")
    add_limits(parser, noun, seconds=seconds, jobs=jobs)
    parser.add_argument("--again", action="store_true", help=f"also {noun}s whose result is up to date")
    parser.add_argument("--report", action="store_true", help="run nothing, only write the report")
    return parser


def run_all(
    work: Callable[[T, Callable[..., None]], None],
    tasks: Sequence[tuple[T, Path]],
    args: argparse.Namespace,
    *,
    noun: str,
    preload: Sequence[str] = PRELOAD,
) -> Iterator[tuple[T, Facts]]:
    """Yield each task with the facts of its process, under a bar; print by ``tqdm.write``."""
    limits, jobs = Limits(args.seconds, int(args.memory * GIB)), getattr(args, "jobs", 1)
    with tqdm(total=len(tasks), unit=noun, disable=None) as bar:
        for task, facts in run_each(work, tasks, limits, jobs=jobs, preload=preload):
            yield task, facts
            bar.update()


def run_missing(
    measure: Callable[[str, Callable[..., None]], None],
    names: Iterable[str],
    journal: Path,
    args: argparse.Namespace,
    *,
    noun: str,
    preload: Sequence[str],
    **known: Any,
) -> int:
    """Measure what a journal lacks or has as failed, and append it; return how many ran."""
    done = {name for name, row in newest_rows(journal, noun).items() if "error" not in row}
    wanted = [name for name in fnmatch.filter(names, args.only) if args.again or name not in done]
    logs = journal.parent / "logs"
    tasks = [(name, logs / f"{name.replace(' ', '_')}.log") for name in wanted if not args.report]
    for name, facts in run_all(measure, tasks, args, noun=noun, preload=preload):
        append_row(journal, {noun: name, "day": f"{datetime.now(UTC):%Y-%m-%d}", **known, **facts})
        tqdm.write(f"{name}: {facts.get('error') or facts}")
    return len(tasks)


def measure_and_report(
    measure: Callable[[str, Callable[..., None]], None],
    names: Collection[str],
    journal: Path,
    args: argparse.Namespace,
    page: tuple[Path, Callable[[Mapping[str, Mapping[str, Any]]], str]],
    **known: Any,
) -> int:
    """Measure the figures that a journal lacks, and write their page; return the exit code.

    Args:
        measure: measures one figure, in a process that has imported its module before.
        names: the figures.
        journal: their results.
        args: from :func:`parser_of`.
        page: the path, and what makes its text from the newest row of each figure.
        known: noted in each row.

    Returns:
        1 if a figure failed, else 0.
    """
    count = run_missing(measure, names, journal, args, noun="figure", preload=(measure.__module__,), **known)
    rows = newest_rows(journal, "figure")
    path, make = page
    write_text(path, make(rows))
    failed = [name for name in names if "error" in rows.get(name, {})]
    print(f"{count} figures measured; {len(failed)} failed; see {path}")
    return 1 if failed else 0


def newest_rows(path: Path, key: str) -> dict[Any, dict[str, Any]]:
    """Map each value of a key to its newest row in a journal."""
    return {row[key]: row for row in read_rows(path)}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a journal; a line that a crash cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Write a line of a journal, below whatever a crash cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            file.write(b"" if file.read() == b"\n" else b"\n")
        file.write((json.dumps(row) + "\n").encode())
