"""The page of grafts counts the verdicts, and says why a class does not graft."""

from __future__ import annotations

from pathlib import Path

from benchmarks.grafts.__main__ import page
from benchmarks.grafts.check import check
from benchmarks.grafts.rows import COLUMNS, read_rows


def row(verdict: str, reason: str = "") -> dict[str, str]:
    return dict.fromkeys(COLUMNS, "") | {"verdict": verdict, "reason": reason}


def test_the_page_counts_and_tells() -> None:
    classes = {"one": "a.One", "two": "b.Two", "three": "c.Three"}
    text = page(classes, {"one": row("grafts"), "two": row("does not graft", "the number 64 | at x.py:3")})
    assert "| grafts | 1 of 3 |" in text
    assert "| not run yet | 1 of 3 |" in text
    assert "| two | b.Two |  | does not graft |  | the number 64 \\| at x.py:3 |" in text


def test_a_network_is_checked_to_the_end() -> None:
    facts: dict[str, object] = {}
    check("test_resnet", facts.update)
    assert (facts["verdict"], facts["interface"]) == ("grafts", "true")


def test_there_are_no_rows_without_a_file(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.csv") == {}
