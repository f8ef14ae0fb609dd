"""Draw the deviation of clusters during C-SGD, measured and predicted."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fxprune.common.files import written_aside
from fxprune.passes.store import DEVIATION_PLOT, METRICS

from .metrics import Record, read_metrics

MEASURES = {"largest": "tab:orange", "median": "tab:blue"}


def draw_deviation(folder: str | os.PathLike[str], place: Path | None = None) -> Path | None:
    """Write ``deviation.svg`` from ``metrics.jsonl``: measured values as dots, the law as lines.

    All deviations of a phase shrink by the same factor, prod_t (1 - lr_t * strength), or nearly so if their unit, the
    size of the rows, shrinks with them. So one prediction, that of the largest, also gives the line of the median. Dots
    leave their line if training changes the size of the means, and at 1e-7, where float32 rounds.

    Args:
        folder: of the results. Records hold ``deviation_largest``, ``deviation_median`` and, if predicted,
            ``deviation_predicted``; the first record of a phase comes before its first step.
        place: the folder for the file; None: the same folder.

    Returns:
        The file; None if no deviation was recorded, or matplotlib is not installed.

    Raises:
        CheckpointError: the records are damaged.
        OSError: the file cannot be written.
    """
    phases = _phases(folder)
    if not phases or not can_draw():
        return None
    path = (place or Path(folder)) / DEVIATION_PLOT
    with written_aside(path) as aside:
        _draw(phases, aside)
    return path


def has_deviation(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a run recorded a deviation."""
    return bool(_phases(folder))


def can_draw() -> bool:
    """Tell whether matplotlib is installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def _phases(folder: str | os.PathLike[str]) -> list[list[Record]]:
    """Read the records with a deviation, by phase, since each phase has its own clusters."""
    if not (Path(folder) / METRICS).exists():
        return []
    records = [record for record in read_metrics(folder) if record.get("deviation_largest") is not None]
    return [list(phase) for _, phase in itertools.groupby(records, key=lambda record: record["phase"])]


def _draw(phases: Sequence[Sequence[Record]], path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    # Keep text as text, and make the same file from the same records.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fxprune", "font.size": 9}):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.set_yscale("log")
        for name, colour in MEASURES.items():
            for phase in phases:
                line = list(_positive(_prediction(phase, name)))
                dots = list(_positive((record["step"], record.get(f"deviation_{name}")) for record in phase))
                axes.plot(*_columns(line), "-", color=colour, linewidth=1.0)
                axes.plot(*_columns(dots), "o", color=colour, markersize=3.5)
            axes.plot([], [], "-o", color=colour, linewidth=1.0, markersize=3.5, label=name)
        axes.set_xlabel("step")
        axes.set_ylabel("relative deviation within a cluster")
        axes.set_title("C-SGD: lines as predicted, dots as measured", fontsize=9)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower left", frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Title": "Deviation within clusters"})


def _prediction(phase: Sequence[Record], name: str) -> Iterator[tuple[int, float | None]]:
    """Scale the prediction for the largest deviation to the first value of this measure."""
    first = phase[0].get("deviation_predicted")
    start = phase[0].get(f"deviation_{name}")
    for record in phase:
        now = record.get("deviation_predicted")
        yield record["step"], None if not first or start is None or now is None else start * now / first


def _positive(points: Iterable[tuple[int, float | None]]) -> Iterator[tuple[int, float]]:
    """Select the points above 0, which a logarithmic axis can show."""
    return ((step, value) for step, value in points if value is not None and value > 0.0)


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[Any], list[Any]]:
    return [step for step, _ in points], [value for _, value in points]
