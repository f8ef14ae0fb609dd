"""Clusters from inner products lose no more than those of Lloyd's iteration."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

from fxprune.passes.planning.gram_clusters import balanced_clusters, gram_of, pairwise_clusters


def lost(x, labels):
    return sum(((x[labels == k] - x[labels == k].mean(0)) ** 2).sum() for k in set(labels.tolist()))


RNG = np.random.default_rng(0)
POINTS = {
    "random": RNG.normal(size=(64, 32)),
    "clumps": RNG.normal(size=(32, 8))[RNG.integers(0, 32, 64)] + 0.3 * RNG.normal(size=(64, 8)),
    "few features": RNG.normal(size=(64, 3)),
    "far from zero": 1e6 + RNG.normal(size=(64, 32)),
}


@pytest.mark.parametrize("clusters", [8, 16, 32, 48])
@pytest.mark.parametrize("x", POINTS.values(), ids=POINTS)
def test_no_more_is_lost_than_by_lloyd(x, clusters):
    found = pairwise_clusters(gram_of(x), clusters, 0)
    assert np.bincount(found).min() > 0
    assert len(set(found.tolist())) == clusters
    assert lost(x, found) <= 1.01 * lost(x, KMeans(clusters, n_init=2, random_state=0).fit(x).labels_)


@pytest.mark.parametrize("clusters", [16, 32])
@pytest.mark.parametrize("x", POINTS.values(), ids=POINTS)
def test_no_swap_of_two_points_loses_less(x, clusters):
    found = balanced_clusters(gram_of(x), clusters, 0)
    assert np.bincount(found).tolist() == [64 // clusters] * clusters
    least = lost(x, found)
    for i, j in RNG.integers(0, 64, (40, 2)):
        swapped = found.copy()
        swapped[[i, j]] = found[[j, i]]
        assert lost(x, swapped) >= least * (1 - 1e-6)


@pytest.mark.parametrize("cluster", [pairwise_clusters, balanced_clusters])
def test_equal_points_come_together(cluster):
    x = np.repeat(RNG.normal(size=(20, 5)), 2, axis=0)[RNG.permutation(40)]
    assert lost(x, cluster(gram_of(x), 20, 0)) == pytest.approx(0, abs=1e-20)
