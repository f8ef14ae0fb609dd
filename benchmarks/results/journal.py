"""Keep results in the committed table, a line per arm and seed; a later run adds more.

The complete file is written after each arm; a result is valid while the digest of its arm and settings is unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from benchmarks.tables import csv_text, read_csv
from fxprune.common.files import write_text

from .settings import Arm, Settings, digest


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """The results of one arm with one seed; None if the arm has no such number.

    Attributes:
        arm: name of the arm.
        keep: its share of the channels.
        seed: of everything in it.
        digest: of the arm and the settings.
        top1: of the final network, on the test images, 0 to 1.
        loss: mean cross-entropy of the final network on the test images.
        before: top-1 of the network as it was trained, just before the trim.
        trimmed: top-1 just after the trim.
        changed: test images that get another class by the trim; from the snapped network in C-SGD.
        changed_by_snap: test images that get another class by the snap.
        deviation: of the clusters after C-SGD; after Lasso, the largest row that should be zero over the mean row.
        snap_change: largest relative change of a row, running statistics included, by the snap.
        error64: narrow against snapped network in float64, relative.
        parameters: of the final network.
        macs: of the final network, for one image.
        sgd_ms: milliseconds of a step of plain SGD.
        csgd_ms: milliseconds of a step of C-SGD.
        train_seconds: wall clock of the arm on a machine that does other things, too.
        error: why there is no result; empty if there is one.
    """

    arm: str
    keep: str
    seed: int
    digest: str
    top1: float | None = None
    loss: float | None = None
    before: float | None = None
    trimmed: float | None = None
    changed: int | None = None
    changed_by_snap: int | None = None
    deviation: float | None = None
    snap_change: float | None = None
    error64: float | None = None
    parameters: int | None = None
    macs: int | None = None
    sgd_ms: float | None = None
    csgd_ms: float | None = None
    train_seconds: float | None = None
    error: str = ""


R = TypeVar("R", bound=ArmRow)


def row_of(arm: Arm, seed: int, settings: Settings, facts: Mapping[str, Any], kind: type[R] = ArmRow) -> R:  # type: ignore[assignment]
    """Make a row from the facts of an arm; facts without a column are left out."""
    known = {field.name: facts[field.name] for field in fields(kind) if field.name in facts}
    return kind(arm=arm.name, keep=arm.keep, seed=seed, digest=digest(arm, settings), **known)


class ArmJournal(Generic[R]):
    """The rows of a file, with the newest result of each (arm, keep, seed)."""

    def __init__(self, path: Path, kind: type[R] = ArmRow) -> None:  # type: ignore[assignment]
        """Read the file, if it exists; its columns are the fields of ``kind``."""
        self._path, self._kind = path, kind
        rows = [_parse(line, kind) for line in read_csv(path)]
        self._rows = {(row.arm, row.keep, row.seed): row for row in rows}

    @property
    def rows(self) -> list[R]:
        """All rows, in the order of the file."""
        return list(self._rows.values())

    def add(self, row: R) -> None:
        """Add a result and write the file."""
        self._rows[row.arm, row.keep, row.seed] = row
        write_text(self._path, to_csv(self.rows, self._kind))

    def current(self, arms: Iterable[Arm], settings: Settings) -> dict[Arm, list[R]]:
        """Map each arm to its rows of these settings by seed, without failed ones."""
        found: dict[Arm, list[R]] = {}
        for arm in arms:
            wanted = digest(arm, settings)
            rows = [row for row in self.rows if row.digest == wanted and not row.error]
            found[arm] = sorted(rows, key=lambda row: row.seed)
        return found

    def missing(self, arms: Iterable[Arm], seeds: Iterable[int], settings: Settings) -> list[tuple[Arm, int]]:
        """List the arms without a result of these settings, seed by seed."""
        arms = list(arms)
        done = {(arm, row.seed) for arm, rows in self.current(arms, settings).items() for row in rows}
        return [(arm, seed) for seed in seeds for arm in arms if (arm, seed) not in done]


def to_csv(rows: Iterable[R], kind: type[R] = ArmRow) -> str:  # type: ignore[assignment]
    """Write a header and one line per row, by seed."""
    ordered = (asdict(row) for row in sorted(rows, key=lambda row: row.seed))
    columns = [field.name for field in fields(kind)]
    return csv_text(columns, ({name: _cell(value) for name, value in row.items()} for row in ordered))


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _parse(line: Mapping[str, str], row: type[R]) -> R:
    values: dict[str, Any] = {}
    for field in fields(row):
        text = line.get(field.name) or ""
        kind = {"int": int, "int | None": int, "float | None": float}.get(str(field.type), str)
        if text or kind is str:
            values[field.name] = kind(text)
    return row(**values)
