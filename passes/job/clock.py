"""Announce each phase of a long run when it begins, and time it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(eq=False)
class Clock:
    """The seconds per phase, in order.

    Attributes:
        loud: announce phases on stderr.
        seconds: name of a phase -> wall-clock seconds.
    """

    loud: bool = True
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def __call__(self, phase: str, detail: str = "") -> Iterator[None]:
        """Time the block under the name of the phase."""
        if self.loud:
            print(f"{phase:<8} {detail}".rstrip(), file=sys.stderr, flush=True)
        start = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - start


def in_words(seconds: float) -> str:
    """Say how long something takes: 40 s, 12 min, 3 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
