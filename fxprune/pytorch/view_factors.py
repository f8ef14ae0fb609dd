"""Factor a view into runs of input axes and output axes with the same number of elements."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

ViewFactor = tuple[tuple[int, ...], tuple[int, ...]]


def view_factors(before: Sequence[int], after: Sequence[int]) -> list[ViewFactor]:
    """Return the finest factors of a view: pairs (input axes, output axes) with equal products.

    Axes of length 1 join the factor in front of them, so every axis appears exactly once. A view without elements is
    one factor: no position of it tells which axes belong together.

    >>> view_factors((2, 12, 7, 7), (2, 3, 4, 49))
    [((0,), (0,)), ((1,), (1, 2)), ((2, 3), (3,))]
    """
    if 0 in (*before, *after):
        return [(tuple(range(len(before))), tuple(range(len(after))))]
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left: list[int] = []
        right: list[int] = []
        m = n = 1
        if i < len(before):
            left, m, i = [i], before[i], i + 1
        if j < len(after):
            right, n, j = [j], after[j], j + 1
        while m != n:
            if m < n:
                left.append(i)
                m, i = m * before[i], i + 1
            else:
                right.append(j)
                n, j = n * after[j], j + 1
        if found and (not left or not right):
            found[-1][0].extend(left)
            found[-1][1].extend(right)
        else:
            found.append((left, right))
    return [(tuple(left), tuple(right)) for left, right in found]


def ones_beside(before: Sequence[int], after: Sequence[int], runs: Sequence[ViewFactor]) -> list[tuple[int, ...]]:
    """List for each run the input axes of length 1 beside it, which it takes if they grow.

    >>> ones_beside((2, 8, 1, 1), (2, 8, 1), view_factors((2, 8, 1, 1), (2, 8, 1)))
    [(), (2, 3), ()]
    """
    found: list[tuple[int, ...]] = [()] * len(runs)
    wide = [at for at, (left, _) in enumerate(runs) if any(before[dim] > 1 for dim in left)]
    for first, second in itertools.pairwise([None, *wide, None]):
        old, new = (_between(runs, side, sizes, first, second) for side, sizes in enumerate((before, after)))
        if len(old) != len(new):
            for at in (first, second):
                if at is not None:
                    found[at] += old
    return found


def _between(
    runs: Sequence[ViewFactor], side: int, sizes: Sequence[int], first: int | None, second: int | None
) -> tuple[int, ...]:
    """List the axes of length 1 between the long ones of one run and those of another."""
    start = 0 if first is None else 1 + max(dim for dim in runs[first][side] if sizes[dim] > 1)
    stop = len(sizes) if second is None else min(dim for dim in runs[second][side] if sizes[dim] > 1)
    return tuple(range(start, stop))
