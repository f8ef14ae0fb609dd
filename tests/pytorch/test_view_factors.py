"""A view factors into runs of axes: products agree, axes come once and in order, and no finer factorisation exists."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from fxprune.pytorch.view_factors import view_factors

TABLE = {
    "nothing": ((), (), []),
    "the same": ((2, 3), (2, 3), [((0,), (0,)), ((1,), (1,))]),
    "merged": ((2, 3, 4), (6, 4), [((0, 1), (0,)), ((2,), (1,))]),
    "split": ((2, 12), (2, 3, 4), [((0,), (0,)), ((1,), (1, 2))]),
    "mixed": ((4, 6), (8, 3), [((0, 1), (0, 1))]),
    "a one at the end joins the segment in front": ((2, 3, 1), (2, 3), [((0,), (0,)), ((1, 2), (1,))]),
    "a new one at the end joins it, too": ((2, 3), (2, 3, 1), [((0,), (0,)), ((1,), (1, 2))]),
    "a one in front": ((1, 6), (6,), [((0, 1), (0,))]),
    "all": ((2, 3), (6,), [((0, 1), (0,))]),
    "one number": ((1, 1), (), [((0, 1), ())]),
    "no elements": ((2, 0, 3), (0, 5, 7), [((0, 1, 2), (0, 1, 2))]),
}


@pytest.mark.parametrize(("before", "after", "found"), TABLE.values(), ids=TABLE)
def test_table(before, after, found):
    assert view_factors(before, after) == found


def random_view(seed):
    """Two factorisations of one number of elements, with ones strewn in."""
    draw = random.Random(seed)
    primes = [draw.choice((2, 2, 3, 5)) for _ in range(draw.randrange(1, 7))]

    def merged():
        sizes, rest = [], list(primes)
        while rest:
            take = draw.randrange(1, len(rest) + 1)
            sizes.append(math.prod(rest[:take]))
            rest = rest[take:]
            if draw.random() < 0.3:
                sizes.append(1)
        return tuple(sizes)

    return merged(), merged()


def test_random_views():
    for seed in range(300):
        before, after = random_view(seed)
        found = view_factors(before, after)
        assert [axis for left, _ in found for axis in left] == list(range(len(before)))
        assert [axis for _, right in found for axis in right] == list(range(len(after)))
        for left, right in found:
            sizes = [before[axis] for axis in left], [after[axis] for axis in right]
            assert math.prod(sizes[0]) == math.prod(sizes[1])
            parts = [{math.prod(side[:k]) for k in range(1, len(side))} for side in sizes]
            inside = parts[0] & parts[1] - {1, math.prod(sizes[0])}
            assert not inside, f"{before} -> {after}: {left} -> {right} could be cut at {inside}"


def test_a_view_and_its_inverse_have_the_same_factors():
    for seed, flip in itertools.product(range(50), (False, True)):
        before, after = random_view(seed)[:: -1 if flip else 1]
        if 1 not in (*before, *after):
            assert [(right, left) for left, right in view_factors(after, before)] == view_factors(before, after)
