"""The result of a run prints as one table and survives its files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import fields, replace

import pytest

from fxprune.errors import CheckpointError
from fxprune.passes.report.fold_summary import FoldSummary
from fxprune.passes.report.results import Result, read_result
from fxprune.passes.report.rows import Row


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
    assert lines[3].split() == ["thin", "500", "k", "1,012", "0.123", "ms", "100.00%", "0"]
    assert "parameters x 0.250" in lines[5]
    assert "accuracy +10.00 points" in lines[5]
    assert "changed the class of 1 of 10 test images, with running statistics of 4000 training images" in lines[6]
    assert "10 s: train 10 s" in lines[-2]
    words = " medians of 25 pairs, wide and narrow in turn\n"
    assert words not in str(result(tmp_path)) and f"\ntimes:{words}" in str(replace(result(tmp_path), pairs=25))


def test_a_narrow_terminal_gets_fewer_columns_and_wrapped_lines(tmp_path):
    wide = result(tmp_path)
    text = wide.text(60)
    assert max(map(len, text.splitlines()[:-1])) <= 60  # the last one has a path
    assert "file" not in text.splitlines()[0]
    assert text.splitlines()[4] == "(no room for file and eager)"
    assert text.partition("\n\n")[2].split() == str(wide).partition("\n\n")[2].split()


def test_a_result_survives_json_and_csv(tmp_path):
    first = result(tmp_path)
    (tmp_path / "summary.json").write_text(first.to_json())
    again = read_result(tmp_path)
    assert str(again) == str(first)
    assert again.stages == first.stages
    rows = list(csv.DictReader(io.StringIO(first.to_csv())))
    assert [row["accuracy"] for row in rows] == ["0.9", "1.0"]
    assert rows[0]["eager_ms"] == ""


def test_a_metric_that_is_not_defined_is_null(tmp_path):
    values = 0.5, float("nan")
    first = result(tmp_path)
    rows = tuple(replace(row, value=value, correct=0) for row, value in zip(first.stages, values, strict=True))
    first = replace(first, stages=rows, metric="r2")
    (tmp_path / "summary.json").write_text(first.to_json())
    assert json.loads(first.to_json())["stages"][1]["value"] is None
    assert str(read_result(tmp_path)) == str(first)
    assert str(first).splitlines()[3].split()[-2:] == ["nan", "0"]


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"stages": [{"name": "wide"}]}'])
def test_a_damaged_summary(tmp_path, text):
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"summary\.json"):
        read_result(tmp_path)


def test_every_field_of_a_result_is_read_back(tmp_path):
    stage = Row(name="a", params=3, macs=4, correct=1, count=3, changed=0, eager_ms=1.5)
    given = {"stages": (stage,), "output": tmp_path, "widths": {"g": [2, 1]}, "seconds": {"a": 1.0}, "options": {}}
    errors = {"none": 0.5, "readers": float("inf")}
    why = {"a.weight": "too many features"}
    given["folded"] = FoldSummary(
        repair="none", wanted="readers", errors=errors, images=8, judge="wide", fitted=1, unfitted=why, few=1, needed=12
    )
    kinds = {"int": 2, "float": 0.5, "str": "recall", "bool": False}
    rest = {field.name: kinds.get(field.type, {}) for field in fields(Result) if field.name not in given}
    result = Result(**given, **rest)
    (tmp_path / "summary.json").write_text(result.to_json())
    assert read_result(tmp_path) == result


def folded(tmp_path, **changes):
    values = {"repair": "readers", "wanted": "readers", "errors": {"none": 0.4, "readers": 0.02}, "images": 40}
    values |= {"judge": "labels", "fitted": 3, "unfitted": {}, "few": 0, "needed": 9}
    return replace(result(tmp_path), folded=FoldSummary(**values | changes))


@pytest.mark.parametrize(
    ("changes", "head", "says"),
    [
        ({}, "accuracy", "not lossless: another class than the wide network's for 1 of 10 test images"),
        ({}, "accuracy", "kept: readers, from 40 images without labels; relative error of the outputs"),
        ({}, "accuracy", "on those held back: 0.02 (readers), 0.4 (none)"),
        ({"few": 1, "images": 1}, "accuracy", "a penalty decides the fit of 1 layer, with fewer positions in 1 image"),
        ({"judge": "wide"}, "agreement", "the classes that the wide network gives stand for them, on 10 images"),
        ({"judge": "", "images": 0}, "onnxruntime", "nothing else is measured, since there are no images"),
        ({"images": 0}, "accuracy", "kept: readers, from noise in place of images"),
        ({"repair": "none"}, "accuracy", "kept: no repair, from"),
        ({"repair": "none", "wanted": "statistics"}, "accuracy", "kept: no repair (statistics had nothing to repair)"),
        ({"unfitted": {"a": "why", "b": "x"}}, "accuracy", "2 of 5 layers keep their summed columns, first `a`: why"),
        (
            {"few": 2, "needed": 90},
            "accuracy",
            "a penalty decides the fit of 2 layers, with fewer positions in 40 images",
        ),
    ],
)
def test_a_fold_says_what_it_repaired_and_lost(tmp_path, changes, head, says):
    text = str(folded(tmp_path, **changes))
    assert head in text.splitlines()[0]
    assert says in text
    assert "C-SGD" not in text


def test_a_summary_from_before_folds_is_read(tmp_path):
    text = result(tmp_path).to_json()
    assert "folded" not in text
    (tmp_path / "summary.json").write_text(text)
    assert read_result(tmp_path).folded is None


def test_a_fold_without_images_measures_nothing(tmp_path):
    first = folded(tmp_path, judge="", images=0)
    rows = tuple(replace(row, correct=0, count=0, changed=0) for row in first.stages)
    first = replace(first, stages=rows)
    (tmp_path / "summary.json").write_text(first.to_json())
    assert str(read_result(tmp_path)) == str(first)
    assert json.loads(first.to_json())["stages"][0]["accuracy"] is None


@pytest.mark.parametrize(
    "damage", [[], {"judge": "me"}, {"images": -1}, {"errors": {"none": "x"}}, {"unfitted": {"a": 1}}, {"more": 1}]
)
def test_a_damaged_record_of_a_fold(tmp_path, damage):
    value = json.loads(folded(tmp_path).to_json())
    value["folded"] = {**value["folded"], **damage} if isinstance(damage, dict) else damage
    (tmp_path / "summary.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match=r"summary\.json"):
        read_result(tmp_path)
