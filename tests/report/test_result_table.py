"""The result of a run prints as one table and survives its files."""

from __future__ import annotations

import csv
import io
from dataclasses import fields

import pytest

from fxprune.errors import CheckpointError
from fxprune.passes.report.results import Result, Row, read_result


def result(tmp_path):
    wide = Row(name="wide", params=2_000_000, macs=40_500_000, bytes=8_000_000, correct=9, count=10, changed=1)
    thin = Row(name="thin", params=500_000, macs=1_012, eager_ms=0.12345, correct=10, count=10, changed=0)
    return Result(
        stages=(wide, thin),
        output=tmp_path,
        deviation=1e-6,
        median_deviation=1e-7,
        snap_change=1e-5,
        snap_changed=1,
        settled=4_000,
        max_rel_error=1e-15,
        onnx_rel_error=1e-7,
        opset=18,
        widths={"a": (8, 4)},
        seconds={"train": 10.0, "trim": 0.1},
        options={"keep": 0.5},
        versions={"python": "3"},
    )


def test_a_result_prints_as_one_table(tmp_path):
    lines = str(result(tmp_path)).splitlines()
    assert lines[2].split() == ["wide", "2.00", "M", "40.5", "M", "8.00", "MB", "90.00%", "1"]
    assert lines[3].split() == ["thin", "0.500", "M", "0.00101", "M", "0.123", "ms", "100.00%", "0"]
    assert "parameters x 0.250" in lines[5]
    assert "accuracy +10.00 points" in lines[5]
    assert "changed the class of 1 of 10 test images, with running statistics of 4000 training images" in lines[6]
    assert "10 s: train 10 s" in lines[-2]


def test_a_result_survives_json_and_csv(tmp_path):
    first = result(tmp_path)
    (tmp_path / "summary.json").write_text(first.to_json())
    again = read_result(tmp_path)
    assert str(again) == str(first)
    assert again.stages == first.stages
    rows = list(csv.DictReader(io.StringIO(first.to_csv())))
    assert [row["accuracy"] for row in rows] == ["0.9", "1.0"]
    assert rows[0]["eager_ms"] == ""


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"stages": [{"name": "wide"}]}'])
def test_a_damaged_summary(tmp_path, text):
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"summary\.json"):
        read_result(tmp_path)


def test_every_field_of_a_result_is_read_back(tmp_path):
    stage = Row(name="a", params=3, macs=4, correct=1, count=3, changed=0, eager_ms=1.5)
    given = {"stages": (stage,), "output": tmp_path, "widths": {"g": [2, 1]}, "seconds": {"a": 1.0}, "options": {}}
    kinds = {"int": 2, "float": 0.5}
    rest = {field.name: kinds.get(field.type, {}) for field in fields(Result) if field.name not in given}
    result = Result(**given, **rest)
    (tmp_path / "summary.json").write_text(result.to_json())
    assert read_result(tmp_path) == result
