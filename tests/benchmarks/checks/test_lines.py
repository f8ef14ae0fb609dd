"""The committed table holds every result and reads back without loss."""

from __future__ import annotations

import csv

from helpers.benchmarks.coverage import FAILED, FULL, result

from benchmarks.checks.lines import lines, read_lines
from benchmarks.checks.result import DEPTHS, FrozenReason
from benchmarks.coverage import __main__ as coverage
from fxprune.common.files import write_text

# What no simple way of writing cells keeps: separators inside reasons, quotes, line ends, nothing against zero.
AWKWARD = result(
    "three",
    checked="2030-01-02T03:04:05+00:00",
    parameters=0,
    share=0.1 + 0.2,
    frozen=(FrozenReason(3, 'a; b (c) "d", `e`', "n_1", "f.py:1"), FrozenReason(1, "é\nf", "", "-")),
    error="x; y\r\nz, 'q'",
    culprits=("g; h", "i"),
)


def test_the_lines_hold_every_result_and_read_back_without_loss(tmp_path):
    found = {"onnx": {"two": FAILED, "one": FULL, "three": AWKWARD}, "couple": {}, "exact": {"two": FAILED}}
    path = tmp_path / "coverage.csv"
    write_text(path, lines(found))
    assert read_lines(path) == [FULL, AWKWARD, FAILED, FAILED]
    with open(path, encoding="utf-8", newline="") as file:
        told = [(line["model"], line["verdict"], line["share"]) for line in csv.DictReader(file)]
    assert told[0] == ("one", "exact, exported", "0.25") and told[2] == ("two", "failed", "")
    assert read_lines(tmp_path / "missing.csv") == []


def test_the_committed_lines_are_as_they_are_written():
    found = {depth: {} for depth in DEPTHS}
    for each in read_lines(coverage.DOCS / "coverage.csv"):
        found[each.depth][each.model] = each
    assert len({model for results in found.values() for model in results}) > 1300
    assert lines(found).encode() == (coverage.DOCS / "coverage.csv").read_bytes()
