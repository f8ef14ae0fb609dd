"""Cluster means of many tensors in few calls: small ones with the same clusters lie side by side in one matrix.

A step of a small network takes as long as its calls, not as its numbers: sixty layers and norms of a ResNet-20 have
only twelve different clusterings.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fxprune.passes.merge import Segments, cluster_mean, even, spread

# Above this number of elements a tensor takes longer than the calls that it would save, and a copy costs memory.
SMALL = 2**16


def even_each(tensors: Sequence[Tensor], cuts: Sequence[Sequence[Segments]]) -> list[Tensor]:
    """:func:`~fxprune.passes.merge.clusters.even` of each tensor, to the bit.

    Args:
        tensors: any shapes and devices.
        cuts: the axes to average of each; tensors whose only cut is the same object are taken together.
    """
    bundles: dict[Hashable, list[int]] = {}
    for index, (tensor, axes) in enumerate(zip(tensors, cuts, strict=True)):
        alone = len(axes) != 1 or tensor.numel() > SMALL
        bundles.setdefault(index if alone else (axes[0], tensor.dtype), []).append(index)
    means: list[Tensor] = list(tensors)
    for members in bundles.values():
        if len(members) == 1:
            means[members[0]] = even(tensors[members[0]], cuts[members[0]])
            continue
        together = _even_rows([tensors[index] for index in members], cuts[members[0]][0])
        for index, mean in zip(members, together, strict=True):
            means[index] = mean
    return means


def _even_rows(tensors: Sequence[Tensor], cut: Segments) -> list[Tensor]:
    layouts = [_layout(tensor.shape, tensor.stride(), cut.dim) for tensor in tensors]
    rows = [
        tensor.permute(layout.order).reshape(layout.shape[0], -1)
        for tensor, layout in zip(tensors, layouts, strict=True)
    ]
    along = [Segments(0, cut.cluster, cut.kept, cut.count)]
    evened = spread(cluster_mean(torch.cat(rows, 1), along), along)
    parts = evened.split([layout.columns for layout in layouts], 1)
    return [part.view(layout.shape).permute(layout.inverse) for part, layout in zip(parts, layouts, strict=True)]


class _Layout(NamedTuple):
    """The cut axis first, the others as they lie in memory, so that rows need no copy; and the way back."""

    order: list[int]
    shape: list[int]
    columns: int
    inverse: list[int]


@functools.lru_cache(maxsize=4096)
def _layout(shape: torch.Size, strides: tuple[int, ...], dim: int) -> _Layout:
    others = sorted((axis for axis in range(len(shape)) if axis != dim), key=lambda axis: -strides[axis])
    order = [dim, *others]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return _Layout(order, [shape[axis] for axis in order], math.prod(shape[axis] for axis in others), inverse)
