"""The algebra of channels against plain loops over sets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fxprune.analysis import channels as algebra
from fxprune.analysis.channels import Channels, Forest, signatures


def merged(size, pairs):
    """Smallest member of each id's set, by repeated union of sets."""
    sets = [{i} for i in range(size)]
    for a, b in pairs:
        joined = next(s for s in sets if a in s) | next(s for s in sets if b in s)
        sets = [s for s in sets if not s & joined] + [joined]
    return [min(next(s for s in sets if i in s)) for i in range(size)]


@pytest.mark.parametrize("seed", range(20))
def test_forest_is_union_of_sets(seed):
    draw = np.random.default_rng(seed)
    size = int(draw.integers(2, 60))
    forest, pairs = Forest(), []
    forest.grow(size)
    for _ in range(int(draw.integers(1, 6))):
        left, right = draw.integers(size, size=(2, int(draw.integers(1, 12))))
        forest.union(left, right)
        pairs += list(zip(left.tolist(), right.tolist()))
        assert forest.find(np.arange(size)).tolist() == merged(size, pairs)


def test_a_forest_that_grows_keeps_its_sets():
    forest = Forest()
    forest.grow(3)
    forest.union(np.array([0]), np.array([2]))
    forest.grow(5000)
    assert forest.find(np.array([0, 1, 2, 3, 4999])).tolist() == [0, 1, 0, 3, 4999]


def test_long_chains_end():
    forest, ids = Forest(), np.arange(10_000)
    forest.grow(10_000)
    forest.union(ids[1:], ids[:-1])
    assert not forest.find(ids).any()


def test_copies_are_of_the_channel_and_marks_reach_the_originals():
    channels = Channels()
    weight = channels.fresh(4)
    twice = channels.copies(np.tile(weight, 2))
    again = channels.copies(twice[:3])
    assert not set(twice) & set(weight) and len(set(twice)) == 8
    assert channels.channel(twice).tolist() == [0, 1, 2, 3] * 2
    assert channels.marked([again]).nonzero()[0].tolist() == [0, 1, 2, *twice[:3], *again]
    assert channels.marked([twice[5:6]]).nonzero()[0].tolist() == [1, twice[5]]
    assert not channels.marked([]).any()


def built(relations, vectors):
    """Signatures of ids 0..n-1 after relations (left, right) by ``unite``."""
    channels = Channels()
    channels.fresh(1 + max(itertools.chain.from_iterable(vectors)))
    for left, right in relations:
        channels.unite(np.array([left]), np.array([right]))
    return signatures(channels, [np.array(vector) for vector in vectors])


def classes(relations, vectors):
    """Sets of channels of one signature."""
    by_signature = {}
    for channel, signature in enumerate(built(relations, vectors).tolist()):
        if signature >= 0:
            by_signature.setdefault(signature, set()).add(channel)
    return sorted(map(sorted, by_signature.values()))


HALVES = [(0, 2), (1, 3)]
TABLE = {
    "one axis": ([], [[0, 1, 2]], [[0, 1, 2]]),
    "two axes": ([], [[0, 1], [2, 3, 4]], [[0, 1], [2, 3, 4]]),
    "a part of an axis": ([], [[0, 1, 2, 3], [1, 2]], [[0, 3], [1, 2]]),
    "the order does not matter": ([], [[0, 1, 2], [2, 0, 1]], [[0, 1, 2]]),
    "once and twice": ([], [[0, 1, 2], [0, 1, 2, 2]], [[0, 1], [2]]),
    "halves bundled": (HALVES, [[0, 1, 2, 3]], [[0, 1]]),
    "halves bundled, read alike": (HALVES, [[0, 1, 2, 3], [0, 1]], [[0, 1]]),
    "halves bundled, one half read from each": (HALVES, [[0, 1, 2, 3], [0, 3]], [[0], [1]]),
    "halves bundled, turned over for one": (HALVES, [[0, 1, 2, 3], [0, 3, 2, 1]], [[0], [1]]),
    "halves bundled, turned over for both": (HALVES, [[0, 1, 2, 3], [2, 3, 0, 1]], [[0, 1]]),
    "halves bundled, each on an axis of its own": (HALVES, [[0, 2], [1, 3]], [[0], [1]]),
    "all bundled": ([(0, 1), (1, 2)], [[0, 1, 2]], [[0]]),
}


@pytest.mark.parametrize(("relations", "vectors", "found"), TABLE.values(), ids=TABLE)
def test_channels_of_one_signature(relations, vectors, found):
    assert classes(relations, vectors) == found


def test_no_axes_no_signatures():
    assert signatures(Channels(), []).tolist() == [-1]


def test_a_flat_forest_finds_the_roots_of_chains():
    forest, ids = Forest(), np.arange(10)
    forest.grow(10)
    for at in range(8, -1, -1):
        forest.union(ids[at : at + 1], ids[at + 1 : at + 2])
    forest.flatten()
    assert not forest.find(ids).any()


@pytest.mark.parametrize(("numbers", "values"), [([], []), ([7], [7]), ([5, 5], [5]), ([3, 1, 3], [1, 3])])
def test_each_value_of_a_vector_is_listed_once(numbers, values):
    assert algebra.values_in(np.array(numbers, int)) == values


def test_ids_that_occur_again_are_copies_of_their_channel():
    channels = algebra.Channels()
    ids = channels.fresh(3)
    assert channels.distinct(ids) is ids
    again = channels.distinct(ids[[0, 1, 0, 2, 1]])
    assert again[[0, 1, 3]].tolist() == [0, 1, 2] and len(set(again)) == 5
    assert channels.channel(again).tolist() == [0, 1, 0, 2, 1]


def test_channels_of_an_axis_differ_if_each_occurs_once():
    channels = algebra.Channels()
    ids, others = channels.fresh(3), channels.fresh(3)
    channels.unite(ids[:1], others[:1])
    found = [channels.differ(each) for each in (None, ids, ids[[0, 1, 0]], np.r_[ids, others[1:]], np.r_[ids, others])]
    assert found == [False, True, False, True, False]


def test_copies_hold_channels_only_unless_they_say_otherwise():
    channels = algebra.Channels()
    ids = channels.fresh(3)
    assert channels.alone(ids)
    beside = channels.copies(ids, beside=True)
    again = channels.copies(beside)
    assert channels.alone(channels.copies(ids))
    assert not any(channels.alone(each[place : place + 1]) for each in (beside, again) for place in range(3))


def test_an_axis_with_positions_beside_its_channels_is_not_alone():
    channels = Channels()
    plain = channels.fresh(4)
    first = channels.copies(np.tile(plain, 7), beside=True)
    between = channels.fresh(3)
    second = channels.copies(np.tile(between, 7), beside=True)
    alone = [channels.alone(ids) for ids in (plain, first, between, second, np.concatenate([between, second[-1:]]))]
    assert alone == [True, False, True, False, False]
