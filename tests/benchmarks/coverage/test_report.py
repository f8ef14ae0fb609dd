"""The page says what was found, and why weights may not merge."""

from __future__ import annotations

import dataclasses

import pytest
from helpers.benchmarks.coverage import FAILED, FULL, POINTS, result

from benchmarks.checks.reasons import reasons, reasons_of
from benchmarks.checks.result import FrozenReason
from benchmarks.coverage.report import page
from benchmarks.networks.classes import EntryPoint


def test_reasons_add_up_over_networks_whatever_the_names():
    other = result(
        "three",
        frozen=(FrozenReason(5, "graph output", "output", "-"), FrozenReason(1, "no rule for `x`", "x", "o.py:1")),
    )
    found = [(reason.why, reason.weights, reason.models, reason.dearest) for reason in reasons([FULL, other])]
    assert found == [("no rule for `...`", 91, 2, "one at net.py:3"), ("graph output", 5, 1, "three at -")]
    assert reasons_of(FULL) == "no rule for `...` (90.0%)"


@pytest.mark.parametrize(
    ("heading", "line"),
    [
        ("The smallest network of each class", "| networks | 3 |"),
        ("The smallest network of each class", "| exact, exported | 1 |"),
        ("The smallest network of each class", "| failed | 1 |"),
        ("The smallest network of each class", "| not checked yet | 1 |"),
        ("The smallest network of each class", "| of earlier sources (†) | 1 |"),
        ("The smallest network of each class", "| of the same sources as the newest result | 1, of 2026-01-02 |"),
        ("The smallest network of each class", "| prunable, median | 25.0% |"),
        ("The smallest network of each class", "| float64, largest | 1.5e-15 |"),
        ("Failed", "| two | narrow | Error: a \\| b c | g at node |"),
        ("Less than 60% prunable", "| one | 25.0% | no rule for `...` (90.0%) |"),
        ("Why weights may not merge", "| no rule for `...` | 90 | 1 | one at net.py:3 |"),
        (
            "Networks",
            "| one | mod.One | 0.00 M | 32 | symbolic | 3 | 25.0% | 40.0% | 30.0% | 1.5e-15 | 2.5e-07 | 3 "
            "| exact, exported | no rule for `...` (90.0%) |",
        ),
        ("Networks", "| two † | mod.Two | 0.00 M | 64 |" + "  |" * 7 + " 0 | failed |  |"),
        ("Networks", "| x | m.X | 0.00 M | 8 |" + "  |" * 8 + " not checked yet |  |"),
        ("Every entry point, analysed", "| coupled | 1 |"),
        ("Entry points that were built and checked in float64", "| exact | 1 |"),
    ],
)
def test_the_page_says_what_was_found(heading, line):
    found = {"one": FULL, "two": dataclasses.replace(FAILED, digest="old")}
    found["one"] = dataclasses.replace(FULL, checked="2026-01-02T03:04:05+00:00")
    coupled = {"one": dataclasses.replace(FULL, depth="couple")}
    text = page(POINTS, [], {"onnx": found, "couple": coupled, "exact": {}}, "new")
    assert line in text.split(f"# {heading}\n")[1].split("\n#")[0].splitlines()


def test_networks_of_torchvision_have_a_part_of_their_own():
    vision = [EntryPoint("video.net", "net", "torchvision/net1", 100, 64)]
    found = {name: dataclasses.replace(FULL, model=name) for name in ("one", "torchvision/net1")}
    coupled = {"torchvision/net1": dataclasses.replace(found["torchvision/net1"], depth="couple")}
    text = page(POINTS, vision, {"onnx": found, "couple": coupled, "exact": {}}, "new")
    timm, _, rest = text.partition("# Coverage of torchvision\n")
    assert "| one | mod.One |" in timm and "torchvision/net1" not in timm and "without weights" not in timm
    assert "| torchvision/net1 | video.net.net |" in rest and "| networks | 1 |" in rest
    assert "torchvision" not in page(POINTS, vision, {"onnx": {"one": FULL}, "couple": {}, "exact": {}}, "new")


def test_folds_have_a_chapter_with_those_that_failed():
    facts = {"depth": "fold", "error64": None, "error_onnx": None}
    good = dataclasses.replace(FULL, **facts, error_merged=0.5, error_folded=0.1)
    bad = dataclasses.replace(FAILED, **facts, stage="fold", error="VerifyError: worse")
    results = {"onnx": {"one": FULL}, "couple": {}, "exact": {}, "fold": {"one": good, "two": bad}}
    text = page(POINTS, [], results, FULL.digest)
    proofs, _, folds = text.partition("## The smallest network of each class, folded\n")
    lines = folds.splitlines()
    assert "| one | mod.One | 3 | 5.0e-01 | 1.0e-01 | 20.0% | 3 | folded |" in lines and "| two | fold |" in folds
    assert {"| folded | 1 |", "| failed | 1 |", "| not checked yet | 1 |", "| error left, largest | 20.0% |"} <= {
        *lines
    }
    assert "exact, exported" in proofs and "exact, exported" not in folds


def test_a_column_says_which_classes_graft():
    plain = page(POINTS, [], {"onnx": {"one": FULL}, "couple": {}, "exact": {}}, "new")
    text = page(POINTS, [], {"onnx": {"one": FULL}, "couple": {}, "exact": {}}, "new", {"one": "grafts"})
    row = next(line for line in plain.splitlines() if line.startswith("| one | mod.One |"))
    assert f"{row} grafts |" in text.splitlines() and "| graft | 1 of 3 |" in text.splitlines()
    assert "| x | m.X | 0.00 M | 8 |" + "  |" * 8 + " not checked yet |  |  |" in text.splitlines()
