"""The map of which tests run which lines: it picks the tests that may see a mutant."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.sources import digest, sources

from .operators import Mutant
from .tests import Session, lines_of

WORK = ROOT / "build" / "mutation"
KEPT = WORK / "lines.json"


class LineMap:
    """The quick tests that pass, and the lines that each runs of the files that are mutated."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Take of each test whether it is ``quick``, its ``seconds``, its ``lines`` of each file."""
        self._rows = {name: row for name, row in rows.items() if row["quick"]}
        self._tests: dict[tuple[str, int], list[str]] = defaultdict(list)
        for name, row in self._rows.items():
            for path, numbers in row["lines"].items():
                for number in numbers:
                    self._tests[path, number].append(name)

    @classmethod
    def of(cls, session: Session, paths: Sequence[str], files: Sequence[str], jobs: int) -> LineMap:
        """Run the tests of some files; the row of each is kept until its file or a source changes.

        A test that fails without a mutant would kill each, so any source counts, and what the tests draw on.
        """
        drawn_on = ("tests/samples", "tests/helpers", "benchmarks/random_networks")
        others = [path for folder in drawn_on for path in sorted((ROOT / folder).rglob("*.py"))]
        text = b"".join((ROOT / path).read_bytes() for path in paths) + digest([*sources(), *others]).encode()
        sha = hashlib.sha256(text).hexdigest()
        digests = {name: hashlib.sha256((ROOT / "tests" / name).read_bytes()).hexdigest() for name in files}
        stored = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
        before = stored["tests"] if stored.get("sha") == sha else {}
        digest_of = {name: digests[name.partition("::")[0].removeprefix("tests/")] for name in session.items}
        rows = {name: row for name, row in before.items() if row["file"] == digest_of.get(name)}
        new = [name for name in session.items if name not in rows]
        for at, (name, passed, lines, took) in enumerate(lines_of(new, session, paths, jobs), 1):
            rows[name] = {"file": digest_of[name], "quick": passed, "seconds": took, "lines": lines}
            if at % 100 == 0 or at == len(new):
                _write(KEPT, json.dumps({"sha": sha, "tests": rows}))
        return cls(rows)

    @staticmethod
    def count() -> int:
        """Count the quick tests of the newest map."""
        rows = json.loads(KEPT.read_text(encoding="utf-8"))["tests"] if KEPT.exists() else {}
        return sum(row["quick"] for row in rows.values())

    def tests_of(self, mutant: Mutant, kills: Mapping[str, int], most: float) -> dict[str, float]:
        """Return tests that run a mutant, and their seconds, of which ``most`` in all.

        The quick ones come first, and those that kill most; among them the first of each set of lines that is run of
        the file, then the second of each.
        """
        # What is in no function runs while a module is loaded: any test of the file may see it.
        if mutant.function:
            names = self._tests.get((mutant.path, mutant.line), [])
        else:
            names = [name for name, row in self._rows.items() if mutant.path in row["lines"]] or [*self._rows]
        seconds = {name: self._rows[name]["seconds"] for name in names}
        before = Counter[tuple[int, ...]]()
        places = []
        for name in sorted(names, key=lambda name: seconds[name] / (1 + kills.get(name, 0))):
            lines = tuple(self._rows[name]["lines"].get(mutant.path, ()))
            before[lines] += 1
            places.append((before[lines], name))
        chosen = [name for _, name in sorted(places, key=lambda place: place[0])]
        total = itertools.accumulate(seconds[name] for name in chosen)
        return {name: seconds[name] for name, sum_of in zip(chosen, total) if sum_of <= most}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
