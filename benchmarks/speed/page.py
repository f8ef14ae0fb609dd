"""Write the page of figures: one table for each kind, with the goal of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import median, quantiles
from typing import Any

from benchmarks.pages import fill

Rows = Mapping[str, Mapping[str, Any]]

# Of what the hook adds to a step.
GOALS = {"resnet50 SGD": 0.25, "resnet50 AdamW": 0.0, "resnet56 SGD": 0.4, "vit_tiny_patch16_224 SGD": 0.25,
         "vit_tiny_patch16_224 AdamW": 0.1}  # fmt: skip


def page(rows: Rows) -> str:
    """Write all that was measured so far, and what failed."""
    kinds: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for name, row in rows.items():
        kind, _, rest = name.partition(" ")
        kinds["failed" if "error" in row else kind][name if "error" in row else rest] = row
    good = [row for row in rows.values() if "error" not in row]
    couple = kinds["couple"]
    ratios = [row["ratio"] for row in couple.values() if "ratio" in row]
    others = {kind: [row[kind] for row in couple.values() if kind in row] for kind in ("unchecked", "floor")}
    return fill(
        "speed/page.md.jinja",
        kinds=kinds,
        machines=sorted({f"{row['machine']}; {row['day']}" for row in good}),
        goals=GOALS,
        goal=_against,
        ratios=ratios,
        others={kind: median(found) for kind, found in others.items() if found},
        quartiles=quantiles(ratios, n=4) if len(ratios) > 1 else [],
        slowest=sorted(couple, key=lambda name: -couple[name]["one"])[:3],
        ranked=sorted(couple.items(), key=lambda item: item[1].get("ratio", 1e9)),
        failed=kinds["failed"],
    )


def _against(goal: float | None, found: float) -> str:
    """Say whether a figure meets its goal, which is the most that it may be."""
    return "" if goal is None else f"{goal:g}, {'met' if found <= goal else 'not met'}"
