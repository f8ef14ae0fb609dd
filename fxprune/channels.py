"""The algebra of channels: ids, and which of them are the same.

Two relations hold between ids. *Same value*: the two positions carry the same numbers in every network, as the
two operands of a residual sum do once they are one. *Same channel*: they live and die together although their
values differ, as channel j of every attention head does. Same value implies same channel. The first is needed
to pair the positions of two channels that merge: when channel b is merged into a, each value of b must find its
partner among the values of a, and find the same one in every parameter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Forest:
    """Union-find over integers, on whole vectors at a time; roots are the smallest members."""

    def __init__(self) -> None:
        self._parent: Ids = np.zeros(0, np.int64)
        self._size = 0

    def grow(self, size: int) -> None:
        """Let ids up to ``size - 1`` exist."""
        if size > len(self._parent):
            grown = np.arange(max(size, 2 * len(self._parent), 1024))
            grown[: self._size] = self._parent[: self._size]
            self._parent = grown
        self._size = size

    def find(self, ids: Ids) -> Ids:
        """Root of each id."""
        parent = self._parent
        roots = parent[ids]
        while True:
            above = parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        parent[ids] = roots
        return roots

    def union(self, left: Ids, right: Ids) -> None:
        """Make ``left[i]`` and ``right[i]`` members of one set, for every i."""
        while True:
            a, b = self.find(left), self.find(right)
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            self._parent[np.maximum(a, b)] = np.minimum(a, b)


class Channels:
    """The ids of one walk over one network, and both relations between them."""

    def __init__(self) -> None:
        self.count = 0
        self._values = Forest()
        self._channels = Forest()
        self._origins: list[tuple[Ids, Ids]] = []

    def fresh(self, count: int) -> Ids:
        """Ids [count] that are related to nothing yet."""
        start, self.count = self.count, self.count + count
        self._values.grow(self.count)
        self._channels.grow(self.count)
        return np.arange(start, self.count)

    def same(self, left: Ids, right: Ids) -> None:
        """``left[i]`` and ``right[i]`` carry the same value."""
        self._values.union(left, right)
        self._channels.union(left, right)

    def bundle(self, left: Ids, right: Ids) -> None:
        """``left[i]`` and ``right[i]`` belong to the same channel, with values of their own."""
        self._channels.union(left, right)

    def copies(self, ids: Ids) -> Ids:
        """Fresh ids, each of the channel of ``ids[i]`` and each with a value of its own."""
        fresh = self.fresh(len(ids))
        self._channels.union(fresh, ids)
        self._origins.append((fresh, ids))
        return fresh

    def marked(self, vectors: list[Ids]) -> NDArray[np.bool_]:
        """Mask over all ids of those in ``vectors`` and of those that they are copies of."""
        mask = np.zeros(self.count, bool)
        for ids in vectors:
            mask[ids] = True
        for fresh, ids in reversed(self._origins):
            mask[ids[mask[fresh]]] = True
        return mask

    def channel(self, ids: Ids) -> Ids:
        """The channel of each id, named by its smallest member."""
        return self._channels.find(ids)

    def value(self, ids: Ids) -> Ids:
        """The value of each id, named by its smallest member."""
        return self._values.find(ids)


def signatures(channels: Channels, vectors: list[Ids]) -> dict[int, bytes]:
    """Channel -> where its values occur, such that two channels of equal signature may merge.

    A signature lists, axis by axis in the order of ``vectors``, the slot of every occurrence: values of a channel are
    numbered by first occurrence, so the signatures of two channels are equal only if pairing their k-th
    occurrences on each axis pairs the same values on all axes.
    """
    if not vectors:
        return {}
    ids = np.concatenate(vectors)
    axis = np.repeat(np.arange(len(vectors)), [len(vector) for vector in vectors])
    channel, value = channels.channel(ids), channels.value(ids)
    _, first, inverse = np.unique(value, return_index=True, return_inverse=True)
    order = np.lexsort((first, channel[first]))
    owner = channel[first][order]
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    tokens = np.stack([axis, rank[inverse]], axis=1)
    by_channel = np.argsort(channel, kind="stable")
    names, begin = np.unique(channel[by_channel], return_index=True)
    end = np.r_[begin[1:], len(by_channel)]
    return {int(name): tokens[by_channel[b:e]].tobytes() for name, b, e in zip(names, begin, end, strict=True)}
