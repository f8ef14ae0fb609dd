"""Append results to a file, one JSON line each, so that all lines survive a crash."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.process import Facts
from benchmarks.runs import append_row, read_rows

from .result import DEPTHS, PROOFS, CheckResult, result_from


class CheckJournal:
    """The newest result of each (model, depth)."""

    def __init__(self, path: Path, committed: Iterable[CheckResult] = ()) -> None:
        """Read the file; an incomplete last line is ignored."""
        self._path = path
        self._newest: dict[tuple[str, str], CheckResult] = {}
        for row in read_rows(path):
            with contextlib.suppress(TypeError):
                self._take(result_from(row))
        for result in committed:
            here = self._newest.get((result.model, result.depth))
            if here is None or result.checked > here.checked:
                self._take(result)

    def append(self, result: CheckResult) -> None:
        """Write a result and keep it."""
        append_row(self._path, result.to_json())
        self._take(result)

    def keep(self, checked: Iterable[tuple[Any, Facts]], depth: str, sources: str) -> int:
        """Append each result as a task ends, print what failed, and return how many were checked."""
        count = 0
        for task, facts in checked:
            if facts.get("too_large"):
                continue
            now = datetime.now(UTC).isoformat(timespec="seconds")
            known = {"model": task.model, "depth": depth, "digest": sources, "checked": now}
            self.append(result := result_from({**known, **facts}))
            count += 1
            if result.error:
                tqdm.write(f"{result.model}: {result.stage}: {result.error}", file=sys.stderr)
        return count

    def missing(self, models: Iterable[str], depth: str, sources: str) -> list[str]:
        """List models without a result of these sources; failed and untried ones come first."""
        known = self.known(depth)
        found = {model: known.get(model) for model in models}
        todo = [model for model, result in found.items() if result is None or result.digest != sources]
        return sorted(todo, key=lambda model: (result := found[model]) is not None and not result.error)

    def newest(self, depth: str) -> dict[str, CheckResult]:
        """Map each model to its newest result of this depth, of any sources."""
        return {model: result for (model, on), result in self._newest.items() if on == depth}

    def known(self, depth: str) -> dict[str, CheckResult]:
        """Map each model to its newest result of this depth, or of a deeper successful check."""
        return known_at(depth, {each: self.newest(each) for each in DEPTHS})

    def standing(self) -> dict[str, dict[str, CheckResult]]:
        """Map depth -> model -> its newest result, without those that a deeper check replaced."""
        own = {depth: self.newest(depth) for depth in DEPTHS}
        return {
            depth: {model: result for model, result in known_at(depth, own).items() if result is own[depth].get(model)}
            for depth in DEPTHS
        }

    def _take(self, result: CheckResult) -> None:
        self._newest[result.model, result.depth] = result


def known_at(depth: str, results: Mapping[str, Mapping[str, CheckResult]]) -> dict[str, CheckResult]:
    """Map each model to its newest result at a depth, or of a deeper successful check.

    ``results`` maps depth -> model -> result.
    """
    known = dict(results[depth])
    for deeper in PROOFS[PROOFS.index(depth) + 1 :] if depth in PROOFS else ():
        for model, result in results.get(deeper, {}).items():
            if not result.error and (model not in known or result.checked >= known[model].checked):
                known[model] = result.at(depth)
    return known
