"""Write SVG: escaped elements, scales of axes, and the frame of a chart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]


def element(tag: str, content: object = "", **attributes: object) -> Markup:
    """Write an element; text is escaped, ``class_`` is ``class``, ``x_y`` is ``x-y``."""
    given = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None)
    words = Markup("").join(Markup(' {}="{}"').format(name, _short(value)) for name, value in given)
    return Markup("<{0}{1}>{2}</{0}>").format(tag, words, escape(content))


def joined(parts: Iterable[Markup]) -> Markup:
    """Join elements to one text."""
    return Markup("").join(parts)


def text(x: float, y: float, words: object, *, anchor: str | None = None, class_: str | None = None) -> Markup:
    """Write a line of text; ``anchor`` is ``middle`` or ``end``."""
    return element("text", words, x=x, y=y, text_anchor=anchor, class_=class_)


def line(points: Sequence[Point], class_: str) -> Markup:
    """Write a line through points."""
    return element("polyline", points=" ".join(f"{x:.2f},{y:.2f}" for x, y in points), class_=class_)


def dot(x: float, y: float, class_: str, about: str, *, radius: float = 3.5) -> Markup:
    """Write a dot that tells about itself when it is pointed at."""
    return element("circle", element("title", about), cx=x, cy=y, r=radius, class_=class_)


@dataclass(frozen=True)
class Scale:
    """position = start + (value - low) / (high - low) * (end - start), of logarithms if ``log``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        low, high, at = map(math.log10, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Return round values on the axis: powers of ten, or multiples of 1, 2 or 5 of one."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, math.ceil((last - first + 1) / most))
            return [10.0**power for power in range(first, last + 1, step)]
        unit = _round_step((self.high - self.low) / most)
        return [unit * n for n in range(math.ceil(self.low / unit - 1e-9), math.floor(self.high / unit + 1e-9) + 1)]


def scale_of(values: Iterable[float], start: float, end: float, *, log: bool = False, zero: bool = False) -> Scale:
    """Return a scale that shows all values, from zero if wanted, with a little room."""
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
    low, high = min(finite), max(finite)
    if log:
        low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
        return Scale(low, high * 10 if high == low else high, start, end, log=True)
    if zero:
        return Scale(0.0, high * 1.08 or 1.0, start, end)
    room = 0.06 * (high - low) or abs(high) * 0.06 or 1.0
    return Scale(low - room, high + room, start, end)


@dataclass(frozen=True)
class Frame:
    """The axes of a chart."""

    x: Scale
    y: Scale
    x_name: str
    y_name: str
    x_text: Callable[[float], str]
    y_text: Callable[[float], str]

    def draw(self) -> Markup:
        """Draw grid lines, their values, and the names of both axes."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        parts = [line([(left, self.y(t)), (right, self.y(t))], "grid") for t in self.y.ticks()]
        parts += [text(left - 6, self.y(t) + 4, self.y_text(t), anchor="end") for t in self.y.ticks()]
        parts += [text(self.x(t), bottom + 16, self.x_text(t), anchor="middle") for t in self.x.ticks(4)]
        parts += [line([(left, bottom), (right, bottom)], "axis")]
        parts += [text(right, bottom + 32, self.x_name, anchor="end", class_="name")]
        return joined([*parts, text(0, top - 12, self.y_name, class_="name")])

    def at(self, points: Iterable[tuple[float, float | None]]) -> list[Point]:
        """Place the points that the axes can show."""
        shown = ((x, y) for x, y in points if y is not None and math.isfinite(y) and (y > 0 or not self.y.log))
        return [(self.x(x), self.y(y)) for x, y in shown]


def picture(content: Iterable[Markup], *, name: str, title: str, about: str, height: float, width: float) -> Markup:
    """Write a picture with a title and a description, which can be read aloud."""
    head = [element("title", title, id=f"{name}-title"), element("desc", about, id=f"{name}-desc")]
    return element(
        "svg",
        joined([*head, *content]),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_="chart",
    )


def _round_step(raw: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(raw))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
