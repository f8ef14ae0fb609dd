"""The rows of ``docs/reports/graft.csv``, one for each network that was tried."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from benchmarks import ROOT

ROWS = ROOT / "docs" / "reports" / "graft.csv"
COLUMNS = ("model", "class", "settings", "image", "verdict", "interface", "reason", "seconds", "checked")
Rows = dict[str, dict[str, str]]


def read_rows(path: Path = ROWS) -> Rows:
    """Read the rows of an earlier run; none without a file."""
    if not path.exists():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def text_of(rows: Mapping[str, Mapping[str, str]]) -> str:
    """Return the file's text: the rows by name."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[name] for name in sorted(rows))
    return text.getvalue()
