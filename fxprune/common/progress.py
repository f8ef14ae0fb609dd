"""Long loops tell how far they are, where a command or a job listens."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_shown: ContextVar[bool] = ContextVar("shown", default=False)
EVERY = 5.0  # seconds between two lines, at first
_BAR = "{desc} {percentage:3.0f} % |{bar}| {remaining} left{postfix}"


class _Known(Iterable[_T_co], Sized, Protocol[_T_co]):
    """Items of a known number."""


@contextlib.contextmanager
def listening(shown: bool = True) -> Iterator[None]:
    """Print phases and progress on stderr inside the block, or nothing."""
    token = _shown.set(shown)
    try:
        yield
    finally:
        _shown.reset(token)


def phase(name: str, detail: str = "") -> None:
    """Name what begins now."""
    if _shown.get():
        print(f"{name:<8} {detail}".rstrip(), file=sys.stderr, flush=True)


def steps(items: _Known[_T], name: str) -> Iterator[_T]:
    """Yield the items, and tell how long the others take: in a bar, or in lines."""
    if not _shown.get() or len(items) < 2:
        yield from items
        return
    with telling(len(items), f"  {name}", leave=False, delay=1.0) as bar:
        for item in items:
            yield item
            bar.update()


@contextlib.contextmanager
def telling(total: int, name: str, unit: str = "", *, wanted: bool | None = None, **shown: Any) -> Iterator[Lines]:
    """Tell how far a loop of ``total`` steps is, in a bar, in lines, or not at all.

    Args:
        total: number of steps.
        name: of what is done.
        unit: what lines call a step after that.
        wanted: whether to show a bar; None: on a terminal a bar, elsewhere lines, if somebody listens.
        **shown: options of tqdm.
    """
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield Lines(total, name, unit, shown=wanted is None and _shown.get())
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=name, bar_format=_BAR, dynamic_ncols=True, **shown) as bar:
        yield _Bar(total, name, bar)


class Lines:
    """Lines on stderr that tell how many steps are done, and how long the others take."""

    def __init__(self, total: int, name: str, unit: str = "", *, shown: bool = True) -> None:
        self.total, self.name, self.unit, self.shown = total, name, unit, shown
        self.first = self.done = 0
        self.start = self.last = time.monotonic()

    def begin(self, done: int) -> None:
        """Begin at a step other than the first, as a training that goes on."""
        self.first = self.done = done

    def rename(self, name: str) -> None:
        """Name what is done from here on."""
        self.name = name

    def update(self) -> None:
        """Count a step, and tell where it is time to: more rarely, the longer it takes."""
        self.done += 1
        now = time.monotonic()
        if now - self.last >= max(EVERY, (now - self.start) / 20) and self.done < self.total:
            self.say(f"{self.name}{self.unit} {self.done} of {self.total}", now)

    def say(self, text: str, now: float | None = None, **facts: str) -> None:
        """Print a text, and the time left; a bar shows the facts instead."""
        self.last = time.monotonic() if now is None else now
        steps = self.done - self.first
        left = (self.last - self.start) / steps * (self.total - self.done) if steps else 0.0
        if self.shown:
            print(f"{text}{f', about {in_words(left)} left' if left else ''}", file=sys.stderr, flush=True)


class _Bar(Lines):
    """The same as a bar of tqdm."""

    def __init__(self, total: int, name: str, bar: Any) -> None:
        super().__init__(total, name)
        self.bar = bar

    def begin(self, done: int) -> None:
        self.bar.initial = self.bar.n = self.bar.last_print_n = done

    def rename(self, name: str) -> None:
        self.bar.set_description_str(name)

    def update(self) -> None:
        self.bar.update()

    def say(self, text: str, now: float | None = None, **facts: str) -> None:
        self.bar.set_postfix_str(", ".join(f"{name} {value}" for name, value in facts.items()))


def in_words(seconds: float) -> str:
    """Say how long something takes: 40 s, 12 min, 3 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
