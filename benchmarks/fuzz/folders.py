"""Damage a folder in many ways; each must be refused, found, or change nothing.

Half of the damage stays as it is; for the other half the manifest is made consistent again, as an attacker would. Then
every reader runs: ``verify``, ``load``, ``report``. The outcome is one of

- ``refused``: one clear error, from every command that reads the damaged file; or ``fxprune verify`` ends by its limit
  on time, with one line and exit code 1;
- ``found``: ``verify`` says what disagrees;
- ``same``: every number is the same as before;
- ``recorded``: the manifest is consistent, ``verify`` holds, the network computes the same, and something changed that
  nothing else in the folder determines: a time, a loss, a weight of the network before C-SGD, a class, a guard;
- ``other``: another number changed. This must not happen.
- ``raw``: an exception that is not ours, a crash, or the limits on time and memory. This must not happen.

``build/fuzz/folders.jsonl`` has a line per mutation; finished mutations are not repeated.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import resource
import runpy
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.runs import append_row, read_rows
from benchmarks.tables import markdown_table
from benchmarks.trust_page import write_section
from fxprune.passes.onnx import check as onnx_check

from .damage import damaged
from .readers import judge, numbers
from .subjects import DamageSubject, make_subjects

SECONDS, BYTES = 60, 4 << 30
OUTCOMES = ("refused", "found", "same", "recorded", "other", "raw")
BUILD = Path("build/fuzz")
REPORT = Path("docs/reports/fuzz_folders.md")
HEAD = """# Damaged folders

Written by `make fuzz`; `benchmarks/fuzz/folders.py` and `benchmarks/fuzz/timm.py` say what the outcomes mean.
"""
WHAT = (
    "of the results of a small network on digits, and of a saved network that has every kind of node, value and field"
)


@dataclass(frozen=True)
class FuzzTarget:
    """The folders to damage, and their readers.

    Attributes:
        make: makes the folders in a place.
        numbers: reads a folder by every command, as :func:`~benchmarks.fuzz.readers.numbers`.
        judge: compares what was read with the undamaged folder, as :func:`~benchmarks.fuzz.readers.judge`.
    """

    make: Callable[[Path], Sequence[DamageSubject]] = make_subjects
    numbers: Callable[..., dict[str, Any]] = numbers
    judge: Callable[..., tuple[str, str]] = judge


RESULTS = FuzzTarget()


class Over(BaseException):
    """The bound on time."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Inside, time of the processor is bounded, and, far above it, of the clock."""

    def over(*_: object) -> None:
        raise Over(f"more than {SECONDS} s")

    signal.signal(signal.SIGPROF, over)
    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(20 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def attack(
    number: int, seed: int, subjects: Sequence[tuple[DamageSubject, dict[str, Any]]], target: FuzzTarget = RESULTS
) -> dict[str, Any]:
    """Return the line of one mutation of a subject; each subject comes with its numbers."""
    random, signed = Random(f"{seed} {number}"), number % 2 == 1
    subject, intact = random.choice(subjects)
    # Where onnxruntime went another way is looked for, which takes seconds, in one case of ten.
    where = onnx_check._where if number % 20 < 2 else lambda *_: "Not looked for."
    line: dict[str, Any] = {"number": number, "seed": seed, "signed": signed}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "out"
        shutil.copytree(subject.folder, folder)
        line["of"] = subject.folder.name
        try:
            with bounded():
                line["kind"], line["file"], line["done"] = damaged(folder, subject.other, random, signed=signed)
            with bounded(), contextlib.redirect_stderr(io.StringIO()), patch.object(onnx_check, "_where", where):
                found = target.numbers(subject, folder, intact)
                line["outcome"], line["says"] = target.judge(
                    found, intact, signed=signed, determined=subject.has_results
                )
        except (Exception, Over) as error:  # which is what is looked for
            line["outcome"], line["says"] = "raw", f"{type(error).__name__}: {error}"
            if isinstance(error, Over) and (said := ended_by_verify(folder)):
                line["outcome"], line["says"] = "refused", said
        line["says"] = line["says"].replace(place, "")[:300]
    return line


def ended_by_verify(folder: Path, seconds: float = 20.0) -> str:
    """Run the command in its own process; return what it says if its limit on time ends it."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 2)
            try:
                sys.argv = ["fxprune", "verify", str(folder), "--timeout", str(seconds)]
                runpy.run_module("fxprune", run_name="__main__")
            finally:
                os._exit(0)
        with bounded():
            _, status = os.waitpid(child, 0)
        said.seek(0)
        last = said.read().strip().rpartition("\n")[2]
    ended = os.waitstatus_to_exitcode(status) == 1 and f"it computes for more than {seconds:g} s" in last
    return last if ended else ""


def run(count: int, seed: int, journal: Path, target: FuzzTarget = RESULTS) -> list[dict[str, Any]]:
    """Run the mutations that the journal lacks; record and replace processes that die."""
    subjects = [(each, target.numbers(each, each.folder)) for each in target.make(journal.parent / "folders")]
    done = _read(journal, seed)
    order = sorted(range(count), key=lambda number: number % 2)  # what is refused at once comes first
    while left := [number for number in order if number not in done]:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _work(left, seed, subjects, journal, target)
        _, status = os.waitpid(child, 0)
        done = _read(journal, seed)
        if status and (lost := next((number for number in left if number not in done), None)) is not None:
            said = f"the process ended with {os.waitstatus_to_exitcode(status)}"
            append_row(journal, {"number": lost, "seed": seed, "signed": lost % 2 == 1, "outcome": "raw", "says": said})
            done = _read(journal, seed)
    return [done[number] for number in range(count)]


def _work(
    left: list[int],
    seed: int,
    subjects: Sequence[tuple[DamageSubject, dict[str, Any]]],
    journal: Path,
    target: FuzzTarget,
) -> None:
    code = 1
    try:
        torch.set_num_threads(1)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
        for number in left:
            append_row(journal, attack(number, seed, subjects, target))
        code = 0
    finally:
        os._exit(code)


def _read(journal: Path, seed: int) -> dict[int, dict[str, Any]]:
    return {line["number"]: line for line in read_rows(journal) if line["seed"] == seed}


def section(lines: list[dict[str, Any]], seed: int, command: str, what: str) -> str:
    """Write the counts as Markdown, and every mutation that should not be."""
    text = [f"{len(lines):,} mutations, seed {seed}, by `make fuzz ARGS={command}`: {what}."]
    for signed, title in ((False, "As it happens"), (True, "With the manifest made consistent again")):
        part = [line for line in lines if line["signed"] == signed]
        counts: list[tuple[str, ...]] = []
        for kind in [*sorted({line.get("kind", "unknown") for line in part}), None]:
            rows = [line for line in part if kind is None or line.get("kind", "unknown") == kind]
            count = collections.Counter(line["outcome"] for line in rows)
            counts.append((kind or "**all**", *(f"{count[outcome]:,}" for outcome in OUTCOMES)))
        text += ["", f"### {title}", "", markdown_table(("damage", *OUTCOMES), counts, numbers=True)]
    bad = [line for line in lines if line["outcome"] in ("other", "raw")]
    if bad:
        text += ["", "### Not as it should be", ""]
        text += [f"- {b['number']}: {b.get('kind')} {b.get('file')} ({b.get('done')}): {b['says']}" for b in bad[:50]]
    return "\n".join(text) + "\n"


def main(arguments: list[str]) -> int:
    """Return exit code 1 where a mutation got in or brought the reader down."""
    return run_attacks(arguments, "folders", "Results of fxprune", WHAT, RESULTS, count=10_000)


def run_attacks(arguments: list[str], kind: str, title: str, what: str, target: FuzzTarget, *, count: int) -> int:
    """Run one kind of attack, with its own journal and its own section of the page."""
    parser = argparse.ArgumentParser(prog=f"make fuzz ARGS={kind}", description=__doc__)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    lines = run(args.count, args.seed, BUILD / f"{kind}.jsonl", target)
    write_section(title, section(lines, args.seed, kind, what), REPORT, HEAD)
    found = collections.Counter(line["outcome"] for line in lines)
    print(", ".join(f"{found[outcome]:,} {outcome}" for outcome in OUTCOMES), "->", REPORT)
    return int(bool(found["other"] + found["raw"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
