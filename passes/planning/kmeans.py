"""K-means with the exact number of clusters, and optionally with clusters of one size."""

from __future__ import annotations

import warnings

import numpy as np

from .gram_clusters import Labels, Points, balanced_clusters, gram_of, one_thread, pairwise_clusters

# Points x clusters x features up to which ten draws cost less than a second.
_DRAWN = 10_000_000
# Points in the mean cluster up to which inner products serve better than Lloyd's iteration, and in a balanced one.
_FEW_POINTS, _FEW_IN_BALANCE = 8, 4
# More points than this have too many pairs.
_MOST_PAIRED = 6000


def needs_products_only(count: int, clusters: int, *, balanced: bool) -> bool:
    """Tell whether inner products serve better than Lloyd's iteration, which needs the points."""
    few = count <= clusters * (_FEW_IN_BALANCE if balanced else _FEW_POINTS)
    return few and count <= _MOST_PAIRED


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

    if clusters in (1, len(points)):
        return np.arange(len(points)) % clusters
    if needs_products_only(len(points), clusters, balanced=False):
        return pairwise_clusters(gram_of(points), clusters, seed)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: split below
        found = KMeans(clusters, n_init=2, max_iter=100, random_state=seed).fit(points)
    _, labels = np.unique(found.labels_, return_inverse=True)
    return _split(labels, ((points - found.cluster_centers_[found.labels_]) ** 2).sum(axis=1), clusters)


def weighted_kmeans(points: Points, weights: Points, clusters: int, seed: int) -> Labels:
    """Labels minimise sum w_i |x_i - weighted mean of its cluster|^2 locally; none is empty.

    Lloyd's iteration starts from Ward's hierarchy, and for few points also from ten draws; the least sum wins.

    Args:
        points: float64 [n, features]; duplicates are allowed.
        weights: float64 [n], above 0.
        clusters: 1 to n.
        seed: of the draws.

    Returns:
        int64 [n], 0 to clusters - 1.
    """
    from scipy.cluster.hierarchy import fcluster, ward
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if clusters in (1, len(points)):
        return np.arange(len(points)) % clusters
    by_ward = _split(*_numbered(points, fcluster(ward(points), clusters, "maxclust")), clusters)
    centres = np.zeros((clusters, points.shape[1]))
    np.add.at(centres, by_ward, points * weights[:, None])
    centres /= np.bincount(by_ward, weights, minlength=clusters)[:, None]
    starts = [KMeans(clusters, init=centres, n_init=1, max_iter=20)]
    if len(points) * clusters * points.shape[1] <= _DRAWN:
        starts.append(KMeans(clusters, n_init=10, max_iter=100, random_state=seed))
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = min((start.fit(points, sample_weight=weights) for start in starts), key=lambda each: each.inertia_)
    return _split(*_numbered(points, found.labels_), clusters)


def _numbered(points: Points, labels: Labels) -> tuple[Labels, Points]:
    """Number labels without gaps; return also the squared distances to the clusters' means."""
    _, labels, count = np.unique(labels, return_inverse=True, return_counts=True)
    centres = np.zeros((len(count), points.shape[1]))
    np.add.at(centres, labels, points)
    return labels, ((points - (centres / count[:, None])[labels]) ** 2).sum(axis=1)


def balanced_kmeans(points: Points, clusters: int, seed: int, weights: Points | None = None) -> Labels:
    """Labels minimise the same sum locally, with n / clusters points in every cluster.

    Where these are few, points are swapped. Otherwise each round solves an assignment problem: points to slots in
    clusters, given the present centres.

    Args:
        points: float64 [n, features].
        clusters: a divisor of n.
        seed: of the first centres.
        weights: float64 [n], how much each point counts; None: all the same.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    size = len(points) // clusters
    if weights is None and needs_products_only(len(points), clusters, balanced=True):
        return balanced_clusters(gram_of(points), clusters, seed)
    if weights is None:
        labels, weights = kmeans(points, clusters, seed), np.ones(len(points))
    else:
        labels = weighted_kmeans(points, weights, clusters, seed)
    for _ in range(10):  # the sum falls with every round; after a few rounds it hardly does
        centres = np.zeros((clusters, points.shape[1]))
        np.add.at(centres, labels, points * weights[:, None])
        centres /= np.bincount(labels, weights, minlength=clusters)[:, None]
        lost = weights[:, None] * cdist(points, centres, "sqeuclidean")
        _, slots = linear_sum_assignment(np.repeat(lost, size, axis=1))
        before, labels = labels, slots // size
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
