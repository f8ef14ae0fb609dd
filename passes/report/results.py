"""The result of a main job, a row per form of the network, as a table, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fxprune.common.documents import check_fields, read_json
from fxprune.common.table import table
from fxprune.common.text import fill, in_units
from fxprune.errors import CheckpointError
from fxprune.passes.store import SUMMARY

from .fold_summary import FoldSummary, folded_from
from .numbers import Measure, three
from .rows import Row, finite, json_types, row_from


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of :func:`fxprune.compress`, or of a fold; prints as a table.

    Attributes:
        stages: one row for each form of the network, from wide to exported.
        output: folder of the files.
        deviation: largest relative deviation within a cluster after C-SGD, see ``Csgd.deviation``; NaN for a fold.
        median_deviation: the median over all tied axes.
        snap_change: largest relative change of a row in the snap, running statistics included.
        snap_changed: test images whose class the snap changed, or the fold.
        settled: training images from which running statistics were estimated again before the snap; 0: not needed.
        max_rel_error: narrow against snapped wide network, in float64.
        onnx_rel_error: onnxruntime against PyTorch, in float32.
        opset: of the exported file.
        widths: group -> channels before and after.
        seconds: phase -> wall-clock seconds.
        options: all options of the job.
        versions: of the packages used.
        folded: what was repaired, of a fold; None after C-SGD.
        metric: name of what the networks are judged by.
        higher_is_better: direction of the metric.
        weights: hash of the narrow weights, as in `network.json`; empty where an earlier version wrote none.
        pairs: how many pairs of times of the wide and the narrow network were taken in turn, of which rows have the
            medians; 0: an earlier version took them one after the other.
    """

    stages: tuple[Row, ...]
    output: Path
    deviation: float
    median_deviation: float
    snap_change: float
    snap_changed: int
    settled: int
    max_rel_error: float
    onnx_rel_error: float
    opset: int
    widths: Mapping[str, tuple[int, int]] = field(repr=False)
    seconds: Mapping[str, float] = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    versions: Mapping[str, str] = field(repr=False)
    folded: FoldSummary | None = field(default=None, repr=False)
    metric: str = "accuracy"
    higher_is_better: bool = True
    weights: str = field(default="", repr=False)
    pairs: int = field(default=0, repr=False)

    @property
    def measure(self) -> Measure:
        """Return what the score of a row measures; without a name, it measures nothing."""
        if self.stages[0].value is not None:
            return Measure(self.metric, "metric", "sample", "{:.4g}".format)
        return Measure(self.metric if self.folded is None else self.folded.measure, "top1", "image", "{:.2%}".format)

    def __str__(self) -> str:
        return self.text()

    def text(self, columns: int | None = None) -> str:
        """Format it as a table and remarks, with at most ``columns`` characters in a line."""
        return f"{self.figures(columns)}\nwritten to {self.output}"

    def figures(self, columns: int | None = None) -> str:
        """Format the table and the remarks, without the place of the folder."""
        header, cells = cells_of(self)
        shown = table(header, cells, right=" ".join(header[1:]), columns=columns, spare=("file", "eager"))
        remarks = self._remarks() if columns is None else [fill(each, columns, 2) for each in self._remarks()]
        return "\n".join([shown, "", *remarks])

    def remarks(self) -> list[str]:
        """Say what stays and what was lost, then what the training or the repair did."""
        first, last = self.stages[0], self.stages[-1]
        cost = f"parameters x {last.params / first.params:.3f}, MACs x {last.macs / first.macs:.3f}"
        if self.folded is not None:
            return self.folded.remarks(cost, first, last, self.snap_changed)
        return self._of_csgd(cost, first, last)

    def _remarks(self) -> list[str]:
        phases = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in self.seconds.items() if seconds >= 0.5)
        return [
            *self.remarks(),
            f"narrow against wide{' with repeated channels' if self.folded else ''}: "
            f"{self.max_rel_error:.1e} in float64; "
            f"onnxruntime against PyTorch: {self.onnx_rel_error:.1e} in float32, opset {self.opset}",
            *([f"times: {self.timed}"] if self.timed else []),
            f"{sum(self.seconds.values()):.0f} s: {phases}",
        ]

    def _of_csgd(self, cost: str, first: Row, last: Row) -> list[str]:
        own = first.value is not None
        scores = (
            f"{self.metric} {first.score:.4g} -> {last.score:.4g} ({self.direction(first, last)})"
            if own
            else f"accuracy {100 * (last.accuracy - first.accuracy):+.2f} points"
        )
        other = "samples whose outputs are" if own else "images whose class is"
        return [
            f"{cost}, {scores}; `changed`: test {other} not the snapped wide network's",
            f"deviation within a cluster after C-SGD: {self.deviation:.1e} at most, {self.median_deviation:.1e} in the "
            f"median; the snap moved a row by {self.snap_change:.1e} at most and changed "
            f"{'outputs' if own else 'the class'} of {self.snap_changed} of {last.count} test "
            f"{'samples' if own else 'images'}"
            + (f", with running statistics of {self.settled} training images" if self.settled else ""),
        ]

    @property
    def timed(self) -> str:
        """Say how times were taken, in a sentence; empty where an earlier version does not say."""
        return f"medians of {self.pairs} pairs, wide and narrow in turn" if self.pairs else ""

    def direction(self, first: Row, last: Row) -> str:
        """Say whether the metric of the last row is better than that of the first."""
        if math.isnan(first.score) or math.isnan(last.score):
            return "not defined for both"
        if first.score == last.score:
            return "equal"
        return "better" if (last.score > first.score) == self.higher_is_better else "worse"

    def to_json(self) -> str:
        """Format everything as JSON, with raw numbers in the units of the attributes."""
        rows = [asdict(row) | {"accuracy": row.accuracy} for row in self.stages]
        value = {
            name: rows if name == "stages" else getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("output", "folded")
        }
        if self.folded is not None:
            value["folded"] = asdict(self.folded)
        return json.dumps(finite(value), indent=1, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Format the rows as CSV with a header; cells that were not measured are empty."""
        text = io.StringIO()
        rows = [asdict(row) | {"accuracy": row.accuracy} for row in self.stages]
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def read_result(folder: str | os.PathLike[str]) -> Result:
    """Read the result that a run left in a folder.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = Path(folder) / SUMMARY
    remedy = "Run the job again."
    found = read_json(path, "summary of results", CheckpointError, remedy)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: it is no mapping. {remedy}")
    kinds = json_types(Result)
    del kinds["output"], kinds["folded"]
    value: dict[str, Any] = {
        "metric": "accuracy",
        "higher_is_better": True,
        "weights": "",
        "pairs": 0,
    } | found  # which earlier versions did not write
    folded = folded_from(value.pop("folded", None), path)
    check_fields(value, kinds, path, CheckpointError)
    stages = value.pop("stages")
    own = any(isinstance(each, dict) and each.get("value") is not None for each in stages)
    rows = [row_from(each, path, own) for each in stages]
    maps: Mapping[str, Callable[[Any], bool]] = {
        "widths": _is_widths,
        "seconds": _is_number,
        "versions": lambda text: isinstance(text, str),
    }
    for name, holds in maps.items():
        if not all(holds(each) for each in value[name].values()):
            raise CheckpointError(f"{path} is damaged: `{name}` holds a value of another type. {remedy}")
    if not rows:
        raise CheckpointError(f"{path} is damaged: it has no rows. {remedy}")
    if any(kind == (int,) and value[name] < 0 for name, kind in kinds.items()):
        raise CheckpointError(f"{path} is damaged: a count is below 0. {remedy}")
    numbers = {name: math.nan for name, kind in kinds.items() if float in kind and value[name] is None}
    return Result(stages=tuple(rows), output=Path(folder), folded=folded, **(value | numbers))


def _is_widths(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(n) is int and n >= 0 for n in value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and value >= 0


def cells_of(result: Result) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """Return header and cells of the table."""
    measure = result.measure
    header = ("", "params", "MACs", "file", "eager", "onnxruntime", measure.name, "changed")
    cells = [
        (
            row.name,
            in_units(row.params),
            in_units(row.macs),
            "" if row.bytes is None else in_units(row.bytes, "B"),
            "" if row.eager_ms is None else f"{three(row.eager_ms)} ms",
            "" if row.onnxruntime_ms is None else f"{three(row.onnxruntime_ms)} ms",
            measure.words(row.score),
            row.changed,
        )
        for row in result.stages
    ]
    shown = len(header) if measure.name else len(header) - 2
    return header[:shown], [row[:shown] for row in cells]
