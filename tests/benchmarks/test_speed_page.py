"""The page of figures has no table without a row, and says of every goal whether it is met."""

from __future__ import annotations

import json

import torch
from torch import nn

from benchmarks.operator_times import __main__ as operator_times
from benchmarks.operator_times import measure
from benchmarks.run_cost import __main__ as run_cost
from benchmarks.speed.page import page

RUN = {"machine": "a processor", "day": "2026-11-26"}
ROWS = {
    "memory SGD narrow": {**RUN, "resident": 2.05, "peak": 2.05},
    "training resnet50 SGD 2": {**RUN, "ratio": 1.02, "one": 1.1, "other": 1.08},
    "couple resnet18": {**RUN, "ratio": 4.74, "one": 0.91, "unchecked": 2.5, "floor": 1.07},
    "plan resnet50": {**RUN, "one": 1.5},
    "giant gpt": {**RUN, "one": 3.0, "peak": 0.95},
}


def test_no_table_is_empty_and_goals_are_judged():
    text = page(ROWS)
    lines = text.splitlines()
    assert all(lines[at + 1 :] and lines[at + 1].startswith("|") for at, x in enumerate(lines) if x.startswith("| ---"))
    assert "## The narrow network" not in text and "step alone" not in text
    for said in (
        "| 2, not met |",
        "| 2, met |",
        "(goal 4, met)",
        "(goal in GB: 1, not met)",
        "SGD, batch 2 | 1.02 | 1080 |",
        "| resnet18 | 4.74 | 2.50 | 1.07 | 0.91 |",
        "(median 1.07 x; none where",
    ):
        assert said in text
    assert "##" not in page({}).replace("# Benchmarks", "")


def test_a_run_costs_the_sum_of_its_parts():
    parts = {"decoding": ("train", "test", "kb"), "passes": ("both", "forward"), "step": ("alone", "hook")}
    parts |= {"averaging": ("elapsed",), "checkpoint": ("elapsed", "mb")}
    rows = {part: {"day": "2026-11-26", **dict.fromkeys(names, 3.6)} for part, names in parts.items()}
    text = " ".join(run_cost.section(rows).split())
    for said in (
        "| checkpoints | 1,320 | 1.3 | 1.3 |",  # 120 epochs of 5,004 steps: 10 checkpoints and one at the end
        "| averaging gradients | 600,480 | 0.0 | 600.5 |",
        "| all | | 320,682 | 161,543 | | |",
        "at 350 images a second",  # 128,000 images in a hundred times 3.6 s
    ):
        assert said in text


def small(monkeypatch):
    """Let the networks be one with a depthwise convolution and one with 1 x 1, and each turn the first."""
    layers = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 16, 1), nn.Flatten(), nn.Linear(576, 5)
    monkeypatch.setattr(measure, "_made", lambda _: (nn.Sequential(*layers).eval(), torch.randn(1, 3, 8, 8)))
    monkeypatch.setattr(measure, "ROUNDS", 1)
    for module in (measure, operator_times):
        monkeypatch.setattr(module, "ROUND_TO", {"narrow": 1, "round_to 16": 16})


def test_every_operator_has_its_time_in_both_runtimes(monkeypatch):
    small(monkeypatch)
    rows = {}
    for runtime in measure.RUNTIMES:
        name, row = f"resnet50 {runtime}", {**RUN}
        measure.measure(name, row.update)
        rows[name] = json.loads(json.dumps(row))
        assert row["macs"]["narrow"] < row["macs"]["round_to 16"] < 1
        for batch in measure.BATCHES:
            found = row["batches"][batch]["operators"]
            assert found.keys() == {"wide", *measure.ROUND_TO}
            kernels = {name.partition(", ")[2] for name in found["narrow"]}
            assert {"depthwise", "1 x 1"} <= kernels, found
    text = operator_times.page({**rows, "mobilenetv3_large_100 eager": {"error": "no memory"}})
    assert text.count("| all | 100% | 100% |") == len(rows) * len(measure.BATCHES)
    assert "### resnet50, onnxruntime, 8" in text and "- `mobilenetv3_large_100 eager`: no memory" in text


def test_operators_that_take_little_are_summed_up():
    times = {"wide": {"conv": 97.0, "add": 2.0, "mul": 1.0}, "narrow": {"conv": 30.0, "add": 2.0, "copy": 0.5}}
    times |= {form: {"conv": 48.5, "add": 1.0} for form in ("round_to 8", "round_to 16")}
    assert [*operator_times.operators(times)] == [
        ("conv", "97%", "92%", "0.31", "0.50", "0.50"),
        ("add", "2%", "6%", "1.00", "0.50", "0.50"),
        ("all others", "1%", "2%", "0.50", "0.00", "0.00"),
        ("all", "100%", "100%", "0.33", "0.49", "0.49"),
    ]
    assert operator_times.eaters(times, 0.25) == "conv 74%; add 19%; copy 6%"
