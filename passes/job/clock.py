"""Announce each phase of a long run when it begins, and time it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from fxprune.common.progress import listening
from fxprune.common.progress import phase as begin


@dataclass(eq=False)
class Clock:
    """The seconds per phase, in order."""

    loud: bool = True
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def __call__(self, phase: str, detail: str = "") -> Iterator[None]:
        """Time the block under the name of the phase."""
        with listening(self.loud):
            begin(phase, detail)
            start = time.perf_counter()
            yield
            self.seconds[phase] = time.perf_counter() - start


def named(given: object) -> str:
    """Name a network or data of a job for its phase."""
    if isinstance(given, tuple):
        return "two loaders"
    return given if isinstance(given, str) else str(getattr(given, "name", type(given).__name__))
