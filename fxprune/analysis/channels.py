"""The algebra of channels: ids, and which of them are one channel.

An id names the numbers at one position of an axis. The ids of one *channel* merge together: those of the two operands
of a residual sum, or of channel j of every attention head. When channel b merges into channel a, each id of b needs a
partner among the ids of a, the same one on every axis of the network; :func:`signatures` ensures that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
# For each axis of a tensor its ids, or None if it carries no channels.
Axes = tuple[Ids | None, ...]


def values_in(numbers: Ids) -> list[int]:
    """List the values in a vector in order; most vectors hold one, which takes no sort to see."""
    if len(numbers) and (numbers == numbers[0]).all():
        return [int(numbers[0])]
    return [int(value) for value in np.unique(numbers)]


class Forest:
    """Union-find over vectors of integers; roots are the smallest members."""

    def __init__(self) -> None:
        self._parent: Ids = np.zeros(0, np.int64)
        self._size = 0
        # Whether every parent is a root, so that one look finds it.
        self._flat = True

    def grow(self, size: int) -> None:
        """Create the ids up to ``size - 1``."""
        if size > len(self._parent):
            grown = np.arange(max(size, 2 * len(self._parent), 1024))
            grown[: self._size] = self._parent[: self._size]
            self._parent = grown
        self._size = size

    def find(self, ids: Ids) -> Ids:
        """Return the root of each id."""
        parent = self._parent
        roots = parent[ids]
        while not self._flat:
            above = parent[roots]
            if not np.count_nonzero(above != roots):  # faster than `all` on short vectors
                break
            roots = above
        if not self._flat:
            parent[ids] = roots
        return roots

    def flatten(self) -> None:
        """Make all finds one look, until the next union."""
        self.find(np.arange(self._size))
        self._flat = True

    def union(self, left: Ids, right: Ids) -> None:
        """Make ``left[i]`` and ``right[i]`` members of one set, for every i."""
        while True:
            a, b = self.find(left), self.find(right)
            differ = a != b
            if not np.count_nonzero(differ):
                return
            a, b = a[differ], b[differ]
            self._flat = False
            self._parent[np.maximum(a, b)] = np.minimum(a, b)


class Channels:
    """The ids of one analysis, and which of them are one channel."""

    def __init__(self) -> None:
        self.count = 0
        self._channels = Forest()
        self._origins: list[tuple[Ids, Ids]] = []
        # First and last ids of the axes that also hold positions without channels, in ascending order.
        self._beside: tuple[list[int], list[int]] = [], []

    def fresh(self, count: int) -> Ids:
        """Make ids [count] that are not united with any others."""
        start, self.count = self.count, self.count + count
        self._channels.grow(self.count)
        return np.arange(start, self.count)

    def unite(self, left: Ids, right: Ids) -> None:
        """Make ``left[i]`` and ``right[i]`` one channel, for every i."""
        if left is not right:
            self._channels.union(left, right)

    def copies(self, ids: Ids, *, beside: bool = False) -> Ids:
        """Make fresh ids of the same channels as ``ids``, for other positions with other numbers.

        Args:
            ids: of the channels that are copied.
            beside: the axis also holds positions without channels, of which other inputs have another number.
        """
        alone = not beside and self.alone(ids)
        fresh = self.apart(ids)
        if not alone:
            for ends, end in zip(self._beside, (0, -1), strict=True):
                ends.append(int(fresh[end]))
        return fresh

    def apart(self, ids: Ids) -> Ids:
        """Make fresh ids of the same channels as ``ids``, for an axis that holds these only."""
        fresh = self.fresh(len(ids))
        self._channels.union(fresh, ids)
        self._origins.append((fresh, ids))
        return fresh

    def alone(self, ids: Ids) -> bool:
        """Tell whether an axis holds channels only, so that its length is the same for all inputs."""
        first, last = self._beside
        if not first:
            return True
        before = np.searchsorted(first, ids, side="right") - 1
        return not ((before >= 0) & (ids <= np.asarray(last)[before])).any()

    def differ(self, ids: Ids | None) -> bool:
        """Tell whether an axis holds channels, and each of them once."""
        return ids is not None and len(np.unique(self.channel(ids))) == len(ids)

    def distinct(self, ids: Ids) -> Ids:
        """Replace every second and later occurrence of an id in a vector by a copy.

        An operator's result keeps the ids of its operand, so the occurrences may hold different numbers.
        """
        _, first = np.unique(ids, return_index=True)
        if len(first) == len(ids):
            return ids
        again = np.ones(len(ids), bool)
        again[first] = False
        result = ids.copy()
        result[again] = self.copies(ids[again])
        return result

    def marked(self, vectors: list[Ids]) -> NDArray[np.bool_]:
        """Make a mask over all ids of those in ``vectors`` and of their originals."""
        mask = np.zeros(self.count, bool)
        for ids in vectors:
            mask[ids] = True
        for fresh, ids in reversed(self._origins):
            mask[ids[mask[fresh]]] = True
        return mask

    def settle(self) -> None:
        """Prepare for many questions in a row, between which nothing is united."""
        self._channels.flatten()

    def channel(self, ids: Ids) -> Ids:
        """Return the channel of each id, named by its smallest member."""
        return self._channels.find(ids)


def signatures(channels: Channels, vectors: list[Ids]) -> Ids:
    """Map each channel to the number of its signature; -1: it does not occur.

    ``vectors`` holds the ids on every axis of every parameter and activation. A signature lists, axis by axis, the slot
    of every occurrence; the ids of a channel are numbered by first occurrence. So the signatures of two channels are
    equal only if pairing their k-th occurrences on each axis pairs the same ids on all axes. Axes that meet position
    by position have their channels united position by position, so what is paired on one is paired on the other.
    """
    number = np.full(channels.count + 1, -1)
    if not vectors:
        return number
    ids = np.concatenate(vectors)
    axis = np.repeat(np.arange(len(vectors)), [len(vector) for vector in vectors])
    channel = channels.channel(ids)
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = np.lexsort((first, channel[first]))
    owner = channel[first][order]
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    slot = np.empty(len(order), np.int64)
    slot[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    tokens = axis * (slot.max() + 1) + slot[inverse]
    by_channel = np.argsort(channel, kind="stable")
    names, begin = np.unique(channel[by_channel], return_index=True)
    length = np.diff(np.r_[begin, len(by_channel)])
    found = 0
    for size in np.unique(length):  # signatures of one length are the rows of a table
        at = length == size
        rows = tokens[by_channel[begin[at][:, None] + np.arange(size)]]
        _, same = np.unique(rows.view(f"V{rows.itemsize * size}").ravel(), return_inverse=True)
        number[names[at]] = found + same
        found += int(same.max()) + 1
    return number
