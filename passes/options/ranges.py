"""The range of an option: a test, and words for errors and help."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple


class Range(NamedTuple):
    """The range of a value; None, if an option may be None, is always in it.

    Attributes:
        words: the range in words, as ``above 0``.
        holds: value -> whether it is in the range; a TypeError means that it is not.
        choices: all values, if they are few.
    """

    words: str
    holds: Callable[[Any], Any]
    choices: tuple[str, ...] = ()


def interval(
    *, gt: float = -math.inf, ge: float = -math.inf, lt: float = math.inf, le: float = math.inf, noun: str = ""
) -> Range:
    """Make a range of finite numbers between two bounds; ``noun`` (``a share``) comes first."""
    low = f"above {gt:g}" if gt > ge else f"{ge:g} or more"
    high = f"below {lt:g}" if lt < le else f"up to {le:g}"
    words = low if math.inf == lt == le else f"{ge:g} to {le:g}" if gt < ge and le < lt else f"{low} and {high}"
    return Range(f"{noun} {words}".strip(), lambda x: gt < x < lt and ge <= x <= le)


def one_of(*choices: str) -> Range:
    """Make the range of a few names."""
    return Range(f"one of {', '.join(choices)}", choices.__contains__, choices)


Share = Annotated[float, interval(ge=0, le=1)]
Count = Annotated[int | None, interval(ge=1)]
Pixels = Annotated[int | None, interval(ge=8, le=65536)]


def rises(values: Sequence[float]) -> bool:
    """Tell whether each value is above the one before, and the first above 0."""
    return all(before < after for before, after in itertools.pairwise([0.0, *values]))


def is_pair(values: Sequence[float], most: float = math.inf) -> bool:
    """Tell whether there are two values above 0 and up to a bound, the lower one first."""
    return (
        not isinstance(values, str)
        and len(values) == 2
        and 0.0 < values[0] <= values[1] <= most
        and values[1] < math.inf
    )
