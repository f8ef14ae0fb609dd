"""Factor a view into runs of input axes and output axes with the same number of elements."""

from __future__ import annotations

from collections.abc import Sequence

ViewFactor = tuple[tuple[int, ...], tuple[int, ...]]


def view_factors(before: Sequence[int], after: Sequence[int]) -> list[ViewFactor]:
    """Return the finest factors of a view: pairs (input axes, output axes) with equal products.

    Axes of length 1 join the factor in front of them, so every axis appears exactly once.

    >>> view_factors((2, 12, 7, 7), (2, 3, 4, 49))
    [((0,), (0,)), ((1,), (1, 2)), ((2, 3), (3,))]
    """
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
