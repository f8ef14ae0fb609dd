"""Draw what a run measured: costs by part, deviations, accuracy by step, latency by MACs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from fxprune.common.text import in_units

from .metrics import Record
from .numbers import Measure, power, three
from .rows import Row
from .svg import Frame, dot, element, joined, line, picture, scale_of, text

WIDTH, HEIGHT = 340, 252
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, WIDTH - 14, 34, HEIGHT - 56
_NAME = 28  # letters of a name that fit beside its numbers


class Bar(NamedTuple):
    """A row of :func:`bars`: a name, and values before and after; None: only one, in a colour."""

    name: str
    before: float
    after: float | None
    colour: str = "wide"


def bars(rows: Sequence[Bar], name: str, title: str, words: Callable[[float], str]) -> Markup:
    """Draw a pair of bars for each row, as long as its values."""
    most = max((row.before for row in rows), default=0)
    most = most if most > 0 else 1  # a metric may be below zero: its bar is as short as one can be
    elements, reported, y = list[Markup](), list[str](), 8.0
    for row in rows:
        values = [(row.colour, row.before)] if row.after is None else [("wide", row.before), ("narrow", row.after)]
        said = " to ".join(words(value) for _, value in values)
        reported.append(f"{row.name}: {said}")
        label = row.name if len(row.name) <= _NAME else f"{row.name[: _NAME // 2 - 1]}…{row.name[-_NAME // 2 :]}"
        elements.append(element("text", joined([element("title", row.name), Markup("{}").format(label)]), x=0, y=y + 8))
        elements.append(text(WIDTH, y + 8, said.replace(" to ", " → "), anchor="end", class_="value"))
        for offset, (colour, value) in zip((14.0, 21.0), values):
            length = max(WIDTH * value / most, 1.0 if value else 0.0)
            elements.append(element("rect", x=0, y=y + offset, width=length, height=6, rx=1.5, class_=f"fill {colour}"))
        y += 29.0 + 7.0 * (len(values) - 1)
    return picture(elements, name=name, title=title, about="; ".join(reported) + ".", width=WIDTH, height=y)


def deviations(phases: Sequence[Sequence[Record]]) -> Markup:
    """Draw measured deviations as dots, and predicted ones as lines, on a logarithmic axis.

    All deviations of a phase shrink by the same factor, prod_t (1 - lr_t * strength), or nearly so if their unit, the
    size of the rows, shrinks with them. So one prediction, that of the largest, also gives the line of the median. Dots
    leave their line if training changes the size of the means, and at 1e-7, where float32 rounds.

    Args:
        phases: records with a deviation, by phase, since each phase has its own clusters. The first record of a phase
            comes before its first step.
    """
    dots = {kind: [_points(phase, kind) for phase in phases] for kind in MEASURES}
    lines = {kind: [list(_predicted(phase, kind)) for phase in phases] for kind in MEASURES}
    values = [y for each in (dots, lines) for of_kind in each.values() for phase in of_kind for _, y in phase if y]
    steps = [float(record["step"]) for phase in phases for record in phase]
    frame = Frame(
        scale_of(steps, _LEFT, _RIGHT),
        scale_of(values, _BOTTOM, _TOP, log=True),
        "step",
        "deviation within a cluster",
        in_units,
        power,
    )
    elements = [frame.draw()]
    for kind in MEASURES:
        elements += [line(points, f"stroke {kind}") for points in map(frame.at, lines[kind]) if len(points) > 1]
        for step, value in itertools.chain(*dots[kind]):
            elements += [
                dot(x, y, f"fill {kind}", f"{kind} at step {step}: {value:.2e}") for x, y in frame.at([(step, value)])
            ]
    elements.append(_legend(list(MEASURES)))
    last = {kind: next((y for _, y in reversed(dots[kind][-1]) if y), None) for kind in MEASURES}
    said = "; ".join(f"the {kind} deviation ends at {value:.1e}" for kind, value in last.items() if value)
    return picture(
        elements,
        name="deviation",
        title="Deviation within clusters during C-SGD: lines as predicted, dots as measured",
        about=f"Over {in_units(max(steps))} steps, {said or 'no deviation is above zero'}.",
        width=WIDTH,
        height=HEIGHT,
    )


MEASURES = ("largest", "median")


def _points(phase: Sequence[Record], kind: str) -> list[tuple[int, float | None]]:
    return [(record["step"], record.get(f"deviation_{kind}")) for record in phase]


def _predicted(phase: Sequence[Record], kind: str) -> Iterator[tuple[int, float | None]]:
    """Scale the prediction for the largest deviation to the first value of this measure."""
    first, start = phase[0].get("deviation_predicted"), phase[0].get(f"deviation_{kind}")
    for record in phase:
        now = record.get("deviation_predicted")
        yield record["step"], None if not first or start is None or now is None else start * now / first


# Colour -> what the legend calls the training that it stands for.
PHASES = {"wide": "training", "narrow": "C-SGD"}


def _kind(phase: str) -> str:
    return "wide" if phase == "train" else "narrow"


def scores(records: Sequence[Record], after: Mapping[str, float], measure: Measure) -> Markup:
    """Draw the accuracy, or another metric, after each epoch, and after the snap and the trim.

    Args:
        records: with the key of the measure, in order.
        after: what follows the last step, such as ``snap``, and the score then.
        measure: what the scores are.
    """
    last, gap = records[-1]["step"], max(records[-1]["step"], 1) * 0.2
    marks = {mark: (last + gap * number, value) for number, (mark, value) in enumerate(after.items(), 1)}
    steps = [0.0, *(float(record["step"]) for record in records), *(x for x, _ in marks.values())]
    values = [*(record[measure.key] for record in records), *after.values()]
    scale = scale_of(values, _BOTTOM, _TOP)
    round_ = all(measure.words(tick).endswith(".00%") for tick in scale.ticks())
    frame = Frame(
        scale_of(steps, _LEFT, _RIGHT),
        scale,
        "step",
        f"{measure.name} on test {measure.unit}s",
        in_units,
        lambda value: measure.words(value).removesuffix(".00%") + "%" if round_ else measure.words(value),
    )
    elements = [frame.draw()]
    for phase, members in itertools.groupby(records, key=lambda record: record["phase"]):
        points = frame.at((record["step"], record[measure.key]) for record in members)
        kind = _kind(phase)
        elements += [line(points, f"stroke {kind}"), *(dot(x, y, f"fill {kind}", phase, radius=2.5) for x, y in points)]
    for mark, (step, value) in marks.items():
        x, y = frame.x(step), frame.y(value)
        about = f"{mark}: {measure.words(value)}"
        elements += [line([(x, _BOTTOM), (x, _TOP - 2)], "mark"), dot(x, y, "fill largest", about)]
        elements.append(text(x, _TOP - 8, mark, anchor="middle"))
    shown = list(dict.fromkeys(_kind(record["phase"]) for record in records))
    elements.append(_legend([PHASES[kind] for kind in shown], shown))
    said = ", ".join(f"{measure.words(value)} after the {mark}" for mark, value in after.items())
    return picture(
        elements,
        name="accuracy" if measure.key == "top1" else measure.key,
        title=f"{measure.heading} on the test {measure.unit}s by step",
        about=f"It ends at {measure.words(records[-1][measure.key])} after step {last}; {said}.",
        width=WIDTH,
        height=HEIGHT,
    )


def latencies(rows: Sequence[Row], unit: str) -> Markup:
    """Draw the time for one image, or sample, by its MACs, of both networks in each runtime."""
    runtimes: dict[str, list[tuple[float, float]]] = {
        "PyTorch": [(row.macs, row.eager_ms) for row in rows if row.eager_ms],
        "onnxruntime": [(row.macs, row.onnxruntime_ms) for row in rows if row.onnxruntime_ms],
    }
    pairs = {name: points for name, points in runtimes.items() if points}
    every = [point for points in pairs.values() for point in points]
    frame = Frame(
        scale_of((x for x, _ in every), _LEFT, _RIGHT, zero=True),
        scale_of((y for _, y in every), _BOTTOM, _TOP, zero=True),
        f"MACs of one {unit}",
        f"milliseconds for one {unit}",
        in_units,
        in_units,
    )
    elements, reported = [frame.draw()], []
    for (name, points), kind in zip(pairs.items(), MEASURES):
        wide, spots = points[0], frame.at(points)
        elements.append(line(frame.at([(0.0, 0.0), wide]), f"stroke {kind} dashed"))
        elements += [line(spots, f"stroke {kind}")]
        elements += [dot(x, y, f"fill {kind}", f"{name}: {three(ms)} ms") for (x, y), (_, ms) in zip(spots, points)]
        reported.append(f"{name}: {' to '.join(three(ms) for _, ms in points)} ms")
    elements.append(_legend(list(pairs)))
    return picture(
        elements,
        name="latency",
        title="Latency by MACs: dashed, if the time shrank as they do",
        about="; ".join(reported) + ".",
        width=WIDTH,
        height=HEIGHT,
    )


def _legend(words: Sequence[str], kinds: Sequence[str] | None = None) -> Markup:
    elements, x = list[Markup](), float(_LEFT)
    for word, kind in zip(words, kinds or MEASURES):
        elements += [dot(x + 4, HEIGHT - 12, f"fill {kind}", word), text(x + 12, HEIGHT - 8, word)]
        x += 28.0 + 6.6 * len(word)
    return joined(elements)
