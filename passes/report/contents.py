"""Collect what a report shows from the files of a folder, whoever wrote them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from fxprune.common.text import in_units
from fxprune.passes.store import METRICS

from .charts import Bar, bars, deviations, latencies, scores
from .metrics import Record, read_metrics
from .numbers import Measure, three
from .recording import Reason, Recording, read_recording
from .results import Result, cells_of, read_result
from .shares import REST, Share
from .verdicts import Advice, Verdict, advice_for, command_of, verdicts_of

# Bars in a chart; with more groups, those of one part of the network are added up.
MOST = 16
# Points of a line; of more, some at even distances are drawn.
MOST_POINTS = 400
# Epochs in words; of more, some at even distances.
MOST_EPOCHS = 40


@dataclass(frozen=True)
class Chart:
    """A picture, its heading, and a sentence on how to read it."""

    heading: str
    picture: Markup
    note: str


@dataclass(frozen=True)
class Contents:
    """Everything on a page.

    Attributes:
        result: of the run.
        recording: what else it recorded; None: an earlier version wrote the folder.
        title: network and data.
        facts: (what, before, after, share that stays; empty: none).
        command: that repeats the run: its words, an option and its value in one.
        verdicts: checks.
        header: of the table.
        rows: of the table.
        remarks: on the table; one of C-SGD has its first remark in ``facts``.
        epochs: (phase, epoch, step, largest deviation, the predicted one, score; empty: not measured).
        charts: in order.
        forms: score of each form of the network, beside the table; None: there are no test images, or it is a chart.
        advice: what to do next.
        absent: what is left out, and why.
    """

    result: Result
    recording: Recording | None
    title: str
    facts: Sequence[tuple[str, str, str, str]]
    command: Sequence[str]
    verdicts: Sequence[Verdict]
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    remarks: Sequence[str]
    epochs: Sequence[Sequence[object]]
    charts: Sequence[Chart]
    forms: Chart | None
    advice: Sequence[Advice]
    absent: Sequence[str]

    @property
    def passed(self) -> bool:
        """Tell whether every check holds."""
        return all(verdict.holds for verdict in self.verdicts)

    @property
    def reasons(self) -> Sequence[Reason]:
        """Reasons why channels are frozen, those of the most weights first."""
        return sorted(self.recording.frozen if self.recording else (), key=lambda reason: -reason.weights)


def contents_of(folder: Path, shown: str) -> Contents:
    """Read a folder of results.

    Raises:
        CheckpointError: a file is damaged.
    """
    result, recording = read_result(folder), read_recording(folder)
    records = read_metrics(folder) if (folder / METRICS).exists() else []
    header, rows = cells_of(result)
    charts, absent = list[Chart](), list[str]()
    if recording is None:
        absent.append(
            "parameters and MACs per group, frozen channels, ONNX by batch and test images, which an earlier version "
            "did not record"
        )
    charts += _costs(result, recording)
    charts += _measured_charts(result, records, absent)
    forms = _forms(result)
    if forms and result.folded:  # nothing else fills its row
        charts, forms = [*charts, forms], None
    in_python: Sequence[str] = recording.in_python if recording else ()
    return Contents(
        result,
        recording,
        _title(result),
        _facts(result),
        command_of(result, in_python),
        verdicts_of(result),
        header,
        rows,
        [remark[:1].upper() + remark[1:] for remark in result.remarks()[0 if result.folded else 1 :]],
        [] if result.folded else _epochs(records, result.measure),
        charts,
        forms,
        list(advice_for(result, shown)),
        absent,
    )


def phases_of(records: Iterable[Record]) -> list[list[Record]]:
    """Return the records with a deviation, by phase, since each phase has its own clusters."""
    found = (record for record in records if record.get("deviation_largest") is not None)
    return [_thinned(list(phase)) for _, phase in itertools.groupby(found, key=lambda record: record["phase"])]


def _title(result: Result) -> str:
    model, data = result.options.get("model", "a network"), result.options.get("data")
    return f"{model} on {'two loaders' if isinstance(data, list) else data}" if data else str(model)


def _facts(result: Result) -> list[tuple[str, str, str, str]]:
    first, narrow, last = result.stages[0], result.stages[-2 if len(result.stages) > 1 else -1], result.stages[-1]
    measure = result.measure
    facts = [
        ("parameters", in_units(first.params), in_units(last.params), f"x {last.params / first.params:.3f}"),
        (f"MACs per {measure.unit}", in_units(first.macs), in_units(last.macs), f"x {last.macs / first.macs:.3f}"),
    ]
    if first.bytes and narrow.bytes:
        facts.append(
            ("weights", in_units(first.bytes, "B"), in_units(narrow.bytes, "B"), f"x {narrow.bytes / first.bytes:.3f}")
        )
    if first.onnxruntime_ms and last.onnxruntime_ms:
        times = f"{three(first.onnxruntime_ms)} ms", f"{three(last.onnxruntime_ms)} ms"
        facts.append(
            (f"onnxruntime, one {measure.unit}", *times, f"x {last.onnxruntime_ms / first.onnxruntime_ms:.3f}")
        )
    if last.count:
        points = f"{100 * (last.accuracy - first.accuracy):+.2f} points"
        change = points if first.value is None else result.direction(first, last)
        facts.append((measure.name, measure.words(first.score), measure.words(last.score), change))
    return facts


def _costs(result: Result, recording: Recording | None) -> list[Chart]:
    """Draw widths, parameters and MACs; of an earlier version the widths alone."""
    if recording is None:
        shares: Sequence[Share] = [Share(name, (w[0], w[1]), (0, 0), (0, 0)) for name, w in result.widths.items()]
    else:
        shares = recording.shares
    rows, what = by_part([share for share in shares if share.name != REST])
    rest = [share for share in shares if share.name == REST]
    if not rows:
        return []
    note = "Grey before, blue after."
    charts = [_pairs("widths", f"Channels of each {what}", [(each.name, each.width) for each in rows], note)]
    if recording is not None:
        for name, heading in (("params", "Parameters"), ("macs", f"MACs of one {result.measure.unit}")):
            pairs = [(each.name or "outside of groups", getattr(each, name)) for each in [*rows, *rest]]
            least = 0.005 * sum(before for _, (before, _) in pairs)
            shown = [pair for pair in pairs if pair[1][0] > (least if pair[0] == "outside of groups" else 0)]
            charts.append(_pairs(name, heading, shown, "Of the layers that make these channels."))
    return charts


def by_part(shares: Sequence[Share]) -> tuple[list[Share], str]:
    """Add up the groups of each part of the network until few enough are left to draw each.

    Returns:
        The costs, and what each of them is of: a group, or a part.
    """
    rows, depth = list(shares), max((share.name.count(".") for share in shares), default=0)
    while len(rows) > MOST and depth > 0:
        rows = _added(shares, lambda name, depth=depth: ".".join(name.split(".")[:depth]))  # type: ignore[misc]
        depth -= 1
    if len(rows) > MOST:
        kept = {share.name for share in sorted(rows, key=lambda share: -share.params[0])[: MOST - 1]}
        rows = _added(rows, lambda name: name if name in kept else "all others")
    return rows, "group" if len(rows) == len(shares) else "part of the network, its groups added up"


def _added(shares: Sequence[Share], part_of: Callable[[str], str]) -> list[Share]:
    sums: dict[str, Share] = {}
    for share in shares:
        name = part_of(share.name)
        before = sums.get(name, Share(name, (0, 0), (0, 0), (0, 0)))
        pairs = (
            (old[0] + new[0], old[1] + new[1])
            for old, new in zip((before.width, before.params, before.macs), (share.width, share.params, share.macs))
        )
        sums[name] = Share(name, *pairs)
    return list(sums.values())


def _pairs(name: str, heading: str, pairs: Iterable[tuple[str, tuple[int, int]]], note: str) -> Chart:
    rows = [Bar(each, before, after) for each, (before, after) in pairs]
    return Chart(heading, bars(rows, name, heading, in_units), note)


def _measured_charts(result: Result, records: Sequence[Record], absent: list[str]) -> list[Chart]:
    charts, measure = [], result.measure
    if phases := phases_of(records):
        note = "Lines as predicted by the law of C-SGD, dots as measured."
        charts.append(Chart("Deviation against prediction", deviations(phases), note))
    elif result.folded is None:
        absent.append("deviations, of which there are no records")
    epochs = _thinned([record for record in records if _is_score(record.get(measure.key), measure)])
    if epochs and result.folded is None and len(result.stages) >= 4:
        *_, snapped, narrow, _ = result.stages
        after = {"snap": snapped.score, "trim": narrow.score} if math.isfinite(snapped.score + narrow.score) else {}
        note = "After each epoch, then after the snap and the trim."
        charts.append(Chart(f"{measure.heading} over steps", scores(epochs, after, measure), note))
    if any(row.eager_ms or row.onnxruntime_ms for row in result.stages):
        how = ", ".join(filter(None, (f"One {measure.unit}, on the machine of the run", result.timed)))
        note = f"{how}. Dashed: if time shrank as MACs do."
        charts.append(Chart("Latency against MACs", latencies(result.stages, measure.unit), note))
    return charts


def _forms(result: Result) -> Chart | None:
    measure, wide = result.measure, max(row.params for row in result.stages)
    rows = [
        Bar(row.name, row.score, None, "wide" if row.params == wide else "narrow")
        for row in result.stages
        if not math.isnan(row.score)
    ]
    note = f"On the test {measure.unit}s. Grey wide, blue narrow."
    return Chart(measure.heading, bars(rows, "forms", measure.heading, measure.words), note) if rows else None


def _epochs(records: Sequence[Record], measure: Measure) -> list[tuple[object, ...]]:
    """List what was measured after each epoch, as cells."""

    def deviation(value: object) -> str:
        return f"{value:.1e}" if isinstance(value, float) else ""

    return [
        (
            *(record.get(name, "") for name in ("phase", "epoch", "step")),
            *(deviation(record.get(name)) for name in ("deviation_largest", "deviation_predicted")),
            measure.words(record[measure.key]) if _is_score(record.get(measure.key), measure) else "",
        )
        for record in _thinned(list(records), MOST_EPOCHS)
    ]


def _is_score(value: object, measure: Measure) -> bool:
    """Tell a share, or a value that a picture has room for."""
    low, high = (0.0, 1.0) if measure.key == "top1" else (-1e100, 1e100)
    return type(value) in (int, float) and low <= value <= high  # type: ignore[operator]


def _thinned(records: list[Record], most: int = MOST_POINTS) -> list[Record]:
    step = -(-len(records) // most)
    return [*records[:-1:step], *records[-1:]] if step > 1 else records
