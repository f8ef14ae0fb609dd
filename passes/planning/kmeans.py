"""K-means with the exact number of clusters, and optionally with clusters of one size."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Points = NDArray[np.float64]


def kmeans(points: Points, clusters: int, seed: int) -> Labels:
    """Labels minimise sum |x - mean of its cluster|^2 locally; none of the clusters is empty.

    Args:
        points: float64 [n, features]; duplicates are allowed.
        clusters: 1 to n.
        seed: of the first centres.

    Returns:
        int64 [n], 0 to clusters - 1.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if clusters in (1, len(points)):
        return np.arange(len(points)) % clusters
    # One thread: small products gain nothing from more, and a fixed order of sums gives the same labels everywhere.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: split below
        found = KMeans(clusters, n_init=2, max_iter=100, random_state=seed).fit(points)
    _, labels = np.unique(found.labels_, return_inverse=True)
    return _split(labels, ((points - found.cluster_centers_[found.labels_]) ** 2).sum(axis=1), clusters)


def balanced_kmeans(points: Points, clusters: int, seed: int) -> Labels:
    """Labels minimise the same sum locally, with n / clusters points in every cluster.

    Each round solves an assignment problem: points to slots in clusters, given the present centres.

    Args:
        points: float64 [n, features].
        clusters: a divisor of n.
        seed: of the first centres.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    labels = kmeans(points, clusters, seed)
    size = len(points) // clusters
    for _ in range(10):  # the sum falls with every round; after a few rounds it hardly does
        centres = np.zeros((clusters, points.shape[1]))
        np.add.at(centres, labels, points)
        centres /= np.bincount(labels, minlength=clusters)[:, None]
        _, places = linear_sum_assignment(np.repeat(cdist(points, centres, "sqeuclidean"), size, axis=1))
        before, labels = labels, places // size
        if np.array_equal(before, labels):
            break
    return labels


def _split(labels: Labels, distance: Points, clusters: int) -> Labels:
    """Make the missing clusters of the points farthest from their centres; none becomes empty."""
    missing = clusters - (labels.max() + 1)
    near_first = np.argsort(distance, kind="stable")
    _, firsts = np.unique(labels[near_first], return_index=True)
    may_leave = np.delete(near_first, firsts)[::-1][:missing]
    labels[may_leave] = labels.max() + 1 + np.arange(missing)
    return labels
