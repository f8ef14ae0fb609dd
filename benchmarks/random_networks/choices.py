"""Draw each network by its own seed, so that a failing one can be repeated alone and shrunk."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from .draw import Drawn, build
from .network import Draw


def choices_of(seed: int, most: int, build: Callable[[Draw, int], object] = build) -> list[int]:
    """Return the choices that make the network of a seed."""
    source, made = random.Random(seed), list[int]()

    def integer(count: int) -> int:
        made.append(source.randrange(count))
        return made[-1]

    build(Draw(integer), most)
    return made


def network_of(choices: Sequence[int], most: int) -> Drawn:
    """Make a network from any choices: too large ones are cut, missing ones are the simplest."""
    return build(draw_from(choices), most)


def draw_from(choices: Sequence[int]) -> Draw:
    """Repeat choices: too large ones are cut, missing ones are the simplest."""
    rest = iter(choices)
    return Draw(lambda count: min(next(rest, 0), count - 1))


def shrunk(choices: Sequence[int], fails: Callable[[list[int]], bool], seconds: float) -> list[int]:
    """Shrink choices while they still fail: leave out runs, then lower each, within the time."""
    kept, deadline, changed = list(choices), time.monotonic() + seconds, True

    def accept(shorter: list[int]) -> bool:
        nonlocal kept, changed
        if time.monotonic() < deadline and fails(shorter):
            kept, changed = shorter, True
            return True
        return False

    while changed and time.monotonic() < deadline:
        changed = False
        for size in (16, 8, 4, 2, 1):
            start = 0
            while start < len(kept):
                if not accept(kept[:start] + kept[start + size :]):
                    start += size
        for at in range(len(kept)):
            for lower in dict.fromkeys((0, kept[at] // 2, kept[at] - 1)):
                if 0 <= lower < kept[at] and accept([*kept[:at], lower, *kept[at + 1 :]]):
                    break
    return kept
