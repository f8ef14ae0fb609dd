"""Draw agreement with the wide network against the share of MACs that is left."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.results import Arm, ArmJournal, Settings
from fxprune.common.files import written_aside

from .methods import CURVE, METHODS
from .settings import PhotoRow

STYLES = {
    "rows none": ("tab:orange", ":"),
    "rows statistics": ("tab:orange", "--"),
    "rows readers": ("tab:orange", "-"),
    "activations readers": ("tab:blue", "-"),
    "outputs readers": ("tab:green", "-"),
    "l1 none": ("tab:gray", ":"),
    "l1 statistics": ("tab:gray", "--"),
    "l1 readers": ("tab:gray", "-"),
}


def draw_curves(journal: ArmJournal[PhotoRow], arms: Sequence[Arm], settings: Settings, path: Path) -> None:
    """Write an SVG if matplotlib is installed: a line for each method, a star for the teacher."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    import matplotlib
    from matplotlib.figure import Figure

    found = journal.current(arms, settings)
    # Keep text as text, and make the same file from the same rows.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fxprune", "font.size": 9}):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        for name in CURVE:
            colour, line = STYLES[name]
            points = sorted(_points(found, name))
            axes.plot(*_columns(points), line, marker="o", color=colour, markersize=3.5, label=METHODS[name].label)
        axes.plot(*_columns(_points(found, "taught")), "*", color="black", markersize=9, label=METHODS["taught"].label)
        axes.set_xlabel("MACs left, %")
        axes.set_ylabel("top-1 as the wide network, % of crops")
        axes.set_ylim(0.0, 100.0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper left", frameon=False, fontsize=7)
        with written_aside(path) as aside:
            figure.savefig(aside, format="svg", metadata={"Date": None, "Title": "Agreement with the wide network"})


def _points(found: Mapping[Arm, Sequence[PhotoRow]], name: str) -> list[tuple[float, float]]:
    return [
        (100 * row.left, 100 * row.agreement)
        for arm, rows in found.items()
        for row in rows[:1]
        if arm.name == name and row.left is not None and row.agreement is not None
    ]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [left for left, _ in points], [agreement for _, agreement in points]
