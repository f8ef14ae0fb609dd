"""The rows of ``docs/reports/graft.csv``, one for each network that was tried."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks import ROOT
from benchmarks.tables import csv_text, read_csv

ROWS = ROOT / "docs" / "reports" / "graft.csv"
COLUMNS = ("model", "class", "settings", "image", "verdict", "interface", "reason", "seconds", "checked")
Rows = dict[str, dict[str, str]]


def read_grafts(path: Path = ROWS) -> Rows:
    """Read the rows of an earlier run; none without a file."""
    return {row["model"]: row for row in read_csv(path)}


def text_of(rows: Mapping[str, Mapping[str, str]]) -> str:
    """Return the file's text: the rows by name."""
    return csv_text(COLUMNS, (rows[name] for name in sorted(rows)))
