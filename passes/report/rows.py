"""The row of one form of the network in a result, and its JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fxprune.common.documents import check_fields
from fxprune.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Row:
    """The measurements of one form of the network; None if not measured.

    Attributes:
        name: the form, between wide and narrow.
        params: trainable numbers.
        macs: multiply-accumulates for one image.
        bytes: size of its file.
        eager_ms: median time for one image in PyTorch, in turn with the other network; see ``Result.pairs``.
        onnxruntime_ms: the same in onnxruntime, on the CPU.
        correct: test images that it classifies correctly, or without labels: as the wide network does.
        count: test images; 0: there are none.
        changed: test images that it classifies differently from the snapped wide network, or of a fold: the wide one;
            with a metric of its own: test samples with other outputs.
        value: of the metric on the test samples, if that is not accuracy; NaN where it is not defined.
    """

    name: str
    params: int
    macs: int
    bytes: int | None = None
    eager_ms: float | None = None
    onnxruntime_ms: float | None = None
    correct: int
    count: int
    changed: int
    value: float | None = None

    @property
    def accuracy(self) -> float:
        """Share of the test images that are classified correctly, 0 to 1; NaN without classes."""
        return self.correct / self.count if self.count and self.value is None else math.nan

    @property
    def score(self) -> float:
        """The value of the metric: the accuracy, unless there is another one."""
        return self.accuracy if self.value is None else self.value


def row_from(value: Any, path: Path, own: bool) -> Row:
    """Read a row; a metric of its own that is null is no number."""
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged: a row is no mapping. Run the job again.")
    value = {"value": None} | value
    if own and value["value"] is None:
        value["value"] = math.nan
    check_fields(value, json_types(Row) | {"accuracy": (float, type(None))}, path, CheckpointError)
    row = Row(**{name: each for name, each in value.items() if name != "accuracy"})
    count = row.count
    sizes = (row.bytes or 0, row.eager_ms or 0, row.onnxruntime_ms or 0)
    sound = 0 <= row.correct <= count and 0 <= row.changed <= count and value["accuracy"] == finite(row.accuracy)
    if not sound or min(row.params, row.macs) < 1 or min(sizes) < 0:
        raise CheckpointError(f"{path} is damaged: the numbers of row `{row.name[:40]}` cannot be. Run the job again.")
    return row


def json_types(record: type) -> dict[str, tuple[type, ...]]:
    """Return the JSON types of each field of a dataclass; a float that is not finite is null."""
    none, kinds = type(None), {"int": (int,), "str": (str,), "bool": (bool,), "float": (int, float, type(None))}
    kinds |= {"int | None": (int, none), "float | None": (int, float, none)}
    found = {field.name: str(field.type) for field in fields(record)}
    return {name: kinds.get(kind, (dict,) if kind.startswith("Mapping") else (list,)) for name, kind in found.items()}


def finite(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON does not have, by null."""
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
