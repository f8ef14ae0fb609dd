"""Convert results to lines of CSV and back without loss; the next run begins with these."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, get_type_hints

from benchmarks.tables import csv_text, read_csv

from .result import CheckResult, FrozenReason, result_from

_KINDS: Mapping[str, Any] = get_type_hints(CheckResult)


def lines(results: Mapping[str, Mapping[str, CheckResult]]) -> str:
    """Write one line per depth and network; tuples are JSON in a cell, unknown values are empty."""
    columns = [*(field.name for field in fields(CheckResult)), "verdict"]
    ordered = (result for found in results.values() for result in sorted(found.values(), key=lambda each: each.model))
    return csv_text(columns, ({name: _cell(getattr(result, name)) for name in columns} for result in ordered))


def read_lines(path: Path) -> list[CheckResult]:
    """Read the results that :func:`lines` wrote; none without a file."""
    return [result_from({name: _value(name, cell) for name, cell in line.items()}) for line in read_csv(path)]


def _cell(value: Any) -> Any:
    return (json.dumps([_parts(each) for each in value]) if value else "") if isinstance(value, tuple) else value


def _parts(value: Any) -> Any:
    return astuple(value) if isinstance(value, FrozenReason) else value


def _value(name: str, cell: str) -> Any:
    """Convert a cell to the value of a field; a column without a field stays text."""
    kind = _KINDS.get(name, str)
    if kind == tuple[FrozenReason, ...]:
        return tuple(FrozenReason(*parts) for parts in _list(cell))
    if kind == tuple[str, ...]:
        return tuple(_list(cell))
    if kind == int | None:
        return int(cell) if cell else None
    if kind in (float | None, float):
        return float(cell) if cell else None
    return cell or None if kind == str | None else cell


def _list(cell: str) -> Iterable[Any]:
    return json.loads(cell) if cell else ()
