"""Format the numbers of tables and pages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class Measure(NamedTuple):
    """A measure of networks, and the format of its values."""

    name: str
    key: str
    unit: str
    words: Callable[[float], str]

    @property
    def heading(self) -> str:
        """The name with a capital; others of its letters stay: IoU."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def changed(self) -> str:
        """Name what the trim or the snap may have changed: outputs, or classes."""
        return "Test images whose class differs" if self.unit == "image" else "Test samples whose outputs differ"


def three(value: float) -> str:
    """Format a number with three significant digits and without an exponent."""
    if value == 0.0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def power(value: float) -> str:
    """Format a power of ten."""
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
