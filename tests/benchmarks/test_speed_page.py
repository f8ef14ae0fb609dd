"""The page of figures has no table without a row, and says of every goal whether it is met."""

from __future__ import annotations

from benchmarks.run_cost import __main__ as run_cost
from benchmarks.speed.page import page

RUN = {"machine": "a processor", "day": "2026-11-26"}
ROWS = {
    "memory SGD narrow": {**RUN, "resident": 2.05, "peak": 2.05},
    "training resnet50 SGD 2": {**RUN, "ratio": 1.02, "one": 1.1, "other": 1.08},
    "couple resnet18": {**RUN, "ratio": 4.74, "one": 0.91},
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
    ):
        assert said in text
    assert "##" not in page({}).replace("# Benchmarks", "")


def test_a_run_costs_the_sum_of_its_parts():
    parts = {"decoding": ("train", "test", "kb"), "passes": ("both", "forward"), "step": ("alone", "hook")}
    parts |= {"averaging": ("elapsed",), "checkpoint": ("elapsed", "mb")}
    rows = {part: {"day": "2026-11-26", **dict.fromkeys(names, 3.6)} for part, names in parts.items()}
    text = run_cost.section(rows)
    for said in (
        "| checkpoints | 1,320 | 1.3 | 1.3 |",  # 120 epochs of 5,004 steps: 10 checkpoints and one at the end
        "| averaging gradients | 600,480 | 0.0 | 600.5 |",
        "| all | | 320,682 | 161,543 | | |",
        "at 350 images a second",  # 128,000 images in a hundred times 3.6 s
    ):
        assert said in text
