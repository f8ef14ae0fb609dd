"""Long loops tell how far they are, where a command or a job listens."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Protocol, TypeVar

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_heard: ContextVar[bool] = ContextVar("heard", default=False)
EVERY = 5.0  # seconds between two lines


class _Known(Iterable[_T_co], Sized, Protocol[_T_co]):
    """Items of a known number."""


@contextlib.contextmanager
def listening(heard: bool = True) -> Iterator[None]:
    """Print phases and progress on stderr inside the block, or nothing."""
    token = _heard.set(heard)
    try:
        yield
    finally:
        _heard.reset(token)


def phase(name: str, detail: str = "") -> None:
    """Name what begins now."""
    if _heard.get():
        print(f"{name:<8} {detail}".rstrip(), file=sys.stderr, flush=True)


def steps(items: _Known[_T], name: str) -> Iterator[_T]:
    """Yield the items, and tell how long the others take: in a bar, or in lines."""
    if not _heard.get() or len(items) < 2:
        yield from items
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=f"  {name}", leave=False, delay=1.0)
        return
    start = last = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= EVERY and number < len(items):
            left = (now - start) / number * (len(items) - number)
            print(f"  {name} {number} of {len(items)}, about {in_words(left)} left", file=sys.stderr, flush=True)
            last = now


def in_words(seconds: float) -> str:
    """Say how long something takes: 40 s, 12 min, 3 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
