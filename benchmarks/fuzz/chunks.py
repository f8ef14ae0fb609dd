"""Check what seeds draw, each chunk in its own process, and resume from a journal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import ROOT
from benchmarks.runs import add_limits, append_row, read_rows, run_all
from benchmarks.sources import digest, sources

WORK = ROOT / "build" / "fuzz"
SECONDS_TO_SHRINK = 60.0


@dataclass(frozen=True)
class Chunk:
    """The networks of some seeds, of at most so many operations each."""

    first: int
    networks: int
    most: int


@dataclass(frozen=True)
class Kind:
    """A kind of networks that seeds draw.

    Attributes:
        name: that of its journal.
        about: one line.
        work: checks a chunk, and records facts about it.
        write_report: writes its section from the rows of the journal, by first seed, and the digest of the sources.
        folders: the folders of ``benchmarks`` that draw and check.
        preload: modules that each process needs.
        count: networks, unless told otherwise.
        most: operations of each, unless told otherwise.
    """

    name: str
    about: str
    work: Callable[[Chunk, Callable[..., None]], None]
    write_report: Callable[[Mapping[int, Mapping[str, Any]], str], None]
    folders: tuple[str, ...]
    preload: tuple[str, ...]
    count: int
    most: int

    @property
    def journal(self) -> Path:
        """The file to which each chunk adds a line."""
        return WORK / f"{self.name}.jsonl"


def failures_of(row: Mapping[str, Any]) -> list[str]:
    """List the failures of a chunk; one that ended early is one, too."""
    ended = f"chunk from seed {row['chunk']['first']}, after seed {row.get('at')}: {row.get('error')}"
    return [*row.get("failures", ()), *([ended] if row.get("error") else ())]


def seeds_of(rows: Mapping[int, Mapping[str, Any]]) -> str:
    """Tell the first and the last seed of the chunks."""
    chunks = sorted((row["chunk"]["first"], row["chunk"]["networks"]) for row in rows.values())
    return f"{chunks[0][0]} to {sum(chunks[-1]) - 1}" if chunks else "none"


def known(path: Path) -> dict[int, dict[str, Any]]:
    """Map the first seed of a chunk to the newest line about it."""
    return {row["chunk"]["first"]: row for row in read_rows(path)}


def smallest(
    choices: list[int], error: Exception, attempt: Callable[[list[int]], object]
) -> tuple[list[int], Exception]:
    """Shrink choices while an attempt ends in the same kind of error; return both."""
    from benchmarks.random_networks import shrunk

    last = error

    def fails(choices: list[int]) -> bool:
        nonlocal last
        try:
            attempt(choices)
        except Exception as found:
            if type(found) is type(error) and str(found)[:12] == str(error)[:12]:
                last = found
                return True
        return False

    return shrunk(choices, fails, SECONDS_TO_SHRINK), last


def run_kind(kind: Kind, argv: Sequence[str] | None) -> int:
    """Check the chunks that are asked for and not up to date; return 1 if a network failed."""
    args = _parser(kind).parse_args(argv)
    code = [path for folder in kind.folders for path in sorted((ROOT / "benchmarks" / folder).glob("*.py"))]
    sha = digest([*sources(), *code])
    before = known(kind.journal)
    chunks = [Chunk(first, args.chunk, args.most) for first in range(args.seed, args.seed + args.count, args.chunk)]
    todo = [
        chunk
        for chunk in ([] if args.report else chunks)
        if args.again
        or (row := before.get(chunk.first)) is None
        or row["digest"] != sha
        or row["chunk"] != asdict(chunk)
    ]
    _run(kind, todo, args, sha)
    rows = known(kind.journal)
    kind.write_report(rows, sha)
    failed = [text for row in rows.values() for text in failures_of(row)]
    print(*failed, sep="\n\n", file=sys.stderr)
    print(f"{len(todo)} chunks checked; {len(failed)} networks failed in all; see docs/reports/trust.md")
    return 1 if failed else 0


def _run(kind: Kind, todo: list[Chunk], args: argparse.Namespace, sha: str) -> None:
    tasks = [(chunk, WORK / "logs" / f"{kind.name}-{chunk.first}.log") for chunk in todo]
    for chunk, facts in run_all(kind.work, tasks, args, noun="chunk", preload=kind.preload):
        row = {"chunk": asdict(chunk), "digest": sha, **facts}
        append_row(kind.journal, row)
        for text in failures_of(row):
            tqdm.write(text, file=sys.stderr)


def _parser(kind: Kind) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"fuzz {kind.name}", description=kind.about)
    for name, default, about in (
        ("count", kind.count, "how many"),
        ("seed", 0, "of the first one"),
        ("chunk", 100, "networks in each process"),
        ("most", kind.most, "operations of a network"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{about} (default: {default})")
    add_limits(parser, "chunk", seconds=1200.0)
    parser.add_argument("--again", action="store_true", help="also chunks whose result is up to date")
    parser.add_argument("--report", action="store_true", help="check nothing, only write the report")
    return parser
