"""Clusters from inner products alone, for many clusters of few points.

With G = X X^T, the distance of a point to the mean of any cluster is a sum of entries of G, so a round costs O(n^2)
whatever the number of clusters or features. Where most clusters hold two or three points, Lloyd's iteration hardly
moves a point; Ward's hierarchy and single moves (Hartigan) lose less, in a tenth of the time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Points = NDArray[np.float64]

# Rounds of moves; each improves the sum, and the last ones hardly do.
_ROUNDS = 60
# Rows of a matrix that are taken at once: what is computed of them stays in the cache.
_ROWS = 32
# More points than this have one start.
_FEW = 1024
# How much a seed varies the distances that the hierarchy sees.
_NOISE = 0.05
# A move must improve the sum by this share of all squares, which rounding does not, and a round of moves by more.
_LEAST, _LEAST_ROUND = 1e-12, 1e-4


def pairwise_clusters(gram: Points, clusters: int, seed: int) -> Labels:
    """Labels of the least sum |x - mean of its cluster|^2 among two hierarchies; none is empty.

    Args:
        gram: float64 [n, n], inner products of the points less their mean.
        clusters: 1 to n.
        seed: of the variations.
    """
    if clusters in (1, len(gram)):
        return np.arange(len(gram)) % clusters
    found = [_moved(gram, _by_ward(_varied(gram, seed, start), clusters)) for start in range(_starts(gram))]
    return max(found, key=lambda labels: _kept(gram, labels)) if len(found) > 1 else found[0]


def balanced_clusters(gram: Points, clusters: int, seed: int) -> Labels:
    """Return the better of two greedy starts, with n / clusters points in every cluster.

    Args:
        gram: float64 [n, n], inner products of the points less their mean.
        clusters: a divisor of n.
        seed: of the variations.
    """
    found = [_swapped(gram, _greedy(_varied(gram, seed, start), clusters)) for start in range(_starts(gram))]
    return max(found, key=lambda labels: _kept(gram, labels)) if len(found) > 1 else found[0]


def gram_of(points: Points) -> Points:
    """Return the inner products of points [n, features] less their mean."""
    centred = points - points.mean(axis=0)
    with one_thread():
        gram: Points = centred @ centred.T
    return gram


def one_thread() -> AbstractContextManager[object]:
    """Return a context in which sums have a fixed order: more threads gain nothing here."""
    libraries = _libraries()
    if all(each.num_threads == 1 for each in libraries.lib_controllers):  # to set it takes longer than a product
        return nullcontext()
    limits: AbstractContextManager[object] = libraries.limit(limits=1)
    return limits


@functools.cache
def _libraries() -> Any:
    """Find the loaded libraries that have threads, once."""
    import scipy.linalg  # noqa: F401  (loads its own)
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


def _starts(gram: Points) -> int:
    return 2 if len(gram) <= _FEW else 1


def _distances(gram: Points, factor: Points | None = None) -> Points:
    """Return the squared distances, each multiplied by the factors of its two points."""
    squares, distances = gram.diagonal().copy(), np.empty_like(gram)
    for rows in _in_blocks(np.arange(len(gram))):
        some = np.multiply(gram[rows], -2.0, out=distances[rows[0] : rows[-1] + 1])
        some += squares
        some += squares[rows, None]
        np.maximum(some, 0, out=some)
        if factor is not None:
            some *= factor
            some *= factor[rows, None]
    return distances


def _in_blocks(rows: Labels) -> Iterator[Labels]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


def _varied(gram: Points, seed: int, start: int) -> Points:
    """Return the squared distances, longer at some points and shorter at others."""
    factor = np.random.default_rng([seed, start]).uniform(1 - _NOISE, 1 + _NOISE, len(gram))
    return _distances(gram, factor)


def _by_ward(distances: Points, clusters: int) -> Labels:
    """Cut Ward's hierarchy where so many clusters are left."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    count = len(distances)
    lengths = squareform(distances, checks=False)
    merges = linkage(np.sqrt(lengths, out=lengths), "ward")[: count - clusters, :2].astype(int)
    above = np.arange(count + len(merges))
    above[merges] = (count + np.arange(len(merges)))[:, None]
    while (above[above] != above).any():
        above = above[above]
    return np.unique(above[:count], return_inverse=True)[1]


def _sums(gram: Points, labels: Labels) -> Points:
    """Return the inner products of the sum of each cluster with all points: [clusters, n]."""
    sums = np.zeros((labels.max() + 1, len(gram)))
    for row, label in zip(gram, labels, strict=True):  # clusters are many and small: each row is read once
        total = sums[label]
        total += row
    return sums


def _kept(gram: Points, labels: Labels) -> float:
    """Return the sum of squares that the means keep."""
    own = _sums(gram, labels)[labels, np.arange(len(labels))]
    return float((np.bincount(labels, own) / np.bincount(labels)).sum())


def _moved(gram: Points, labels: Labels) -> Labels:
    """Move single points to other clusters as long as the sum falls; no cluster becomes empty."""
    every, squares = np.arange(len(labels)), gram.diagonal().copy()  # side by side
    least, sums = _LEAST * squares.sum(), _sums(gram, labels)
    joining, changed = np.empty_like(sums), np.arange(len(sums))
    nearest = np.empty((-(-len(sums) // _ROWS), len(labels)))  # the least of so many clusters
    for _ in range(_ROUNDS):
        size = np.bincount(labels)
        own = sums[labels, every]
        square = np.bincount(labels, own) / size  # |sum|^2 / n
        # What a point adds to a cluster of n points at a distance d from their mean: d^2 n / (n + 1).
        for rows in _in_blocks(changed):
            added = size[rows, None] * squares
            added += square[rows, None]
            added -= 2 * sums[rows]
            added /= size[rows, None] + 1
            joining[rows] = added
        joining[labels, every] = np.inf
        for block in np.unique(changed // _ROWS):
            joining[block * _ROWS : (block + 1) * _ROWS].min(axis=0, out=nearest[block])
        among = np.minimum(nearest.argmin(axis=0) * _ROWS + np.arange(_ROWS)[:, None], len(sums) - 1)
        best = among[joining[among, every].argmin(axis=0), every]
        leaving = (size[labels] * squares + square[labels] - 2 * own) / np.maximum(size[labels] - 1, 1)
        gain = np.where(size[labels] > 1, leaving - joining[best, every], 0)
        touched, improved = np.zeros(len(size), bool), 0.0
        for point in np.argsort(-gain, kind="stable"):
            before, after = labels[point], best[point]
            if gain[point] <= least:
                break
            if touched[before] or touched[after]:
                continue
            touched[[before, after]] = True
            sums[before] -= gram[point]
            sums[after] += gram[point]
            labels[point] = after
            improved += gain[point]
        changed = np.flatnonzero(touched)
        if improved <= _LEAST_ROUND * (squares.sum() - square.sum()):
            break
    return labels


def _greedy(distances: Points, clusters: int) -> Labels:
    """Fill clusters one by one with the loneliest point and the points nearest to it."""
    count = len(distances)
    size = count // clusters
    labels, left = np.full(count, -1), distances.copy()
    np.fill_diagonal(left, np.inf)
    nearest = left.argmin(axis=1)
    alone = left[np.arange(count), nearest]  # the distance to the nearest point that is left
    for cluster in range(clusters):
        free = np.flatnonzero(labels < 0)
        first = free[alone[free].argmax()] if len(free) > size > 1 else free[0]
        near = free[np.argsort(left[first, free], kind="stable")[: size - 1]]
        members = np.append(near, first)
        labels[members] = cluster
        left[:, members] = np.inf
        lost = np.flatnonzero((labels < 0) & (labels[nearest] == cluster))
        nearest[lost] = left[lost].argmin(axis=1)
        alone[lost] = left[lost, nearest[lost]]
    return labels


def _swapped(gram: Points, labels: Labels) -> Labels:
    """Swap points of two clusters as long as the sum falls."""
    every, distances = np.arange(len(labels)), _distances(gram)
    least, sums = _LEAST * np.diag(gram).sum(), _sums(gram, labels)
    for _ in range(_ROUNDS):
        beside = sums[labels]  # the cluster of point i with point j
        own = beside[every, every]
        gain = beside + beside.T
        gain -= own
        gain -= own[:, None]
        gain += distances
        gain[labels[:, None] == labels] = -np.inf
        best = gain.argmax(axis=1)
        touched = np.zeros(len(sums), bool)
        for i in np.argsort(-gain[every, best], kind="stable"):
            j, a, b = best[i], labels[i], labels[best[i]]
            if gain[i, j] <= least:
                break
            if touched[a] or touched[b]:
                continue
            touched[[a, b]] = True
            step = gram[j] - gram[i]
            sums[a] += step
            sums[b] -= step
            labels[i], labels[j] = b, a
        if not touched.any():
            break
    return labels
