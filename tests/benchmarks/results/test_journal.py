"""Rows survive their file, and only what is missing runs."""

from __future__ import annotations

from dataclasses import replace

from helpers.benchmarks.results import CSGD, TINY, WIDE, a_row

from benchmarks.results.command import DOCS
from benchmarks.results.journal import ArmJournal, ArmRow, to_csv


def test_rows_survive_the_file(tmp_path):
    rows = [
        a_row(CSGD, 0, top1=0.9, changed=0, deviation=1.25e-5, parameters=7),
        a_row(WIDE, 1, error='died, "loudly"\nin two lines'),
    ]
    journal = ArmJournal(tmp_path / "results.csv")
    for row in rows:
        journal.add(row)
    assert ArmJournal(tmp_path / "results.csv").rows == rows
    journal.add(a_row(CSGD, 0, top1=0.5))
    assert [row.top1 for row in ArmJournal(tmp_path / "results.csv").rows] == [0.5, None]


def test_only_what_is_missing_runs_and_seeds_come_first(tmp_path):
    journal = ArmJournal(tmp_path / "results.csv")
    journal.add(a_row(WIDE, 0, top1=0.9))
    journal.add(a_row(CSGD, 0, error="killed"))
    journal.add(a_row(CSGD, 1, replace(TINY, lr=0.1), top1=0.9))
    arms = (WIDE, CSGD)
    assert journal.missing(arms, range(1), TINY) == [(CSGD, 0)]
    assert journal.missing(arms, range(2), TINY) == [(CSGD, 0), (WIDE, 1), (CSGD, 1)]
    assert {arm: len(rows) for arm, rows in journal.current(arms, TINY).items()} == {WIDE: 1, CSGD: 0}


def test_a_finished_table_is_written_as_it_was_read():
    text = (DOCS / "results.csv").read_text()
    rows = ArmJournal(DOCS / "results.csv").rows
    assert rows and to_csv(rows) == text and all(isinstance(row, ArmRow) for row in rows)
