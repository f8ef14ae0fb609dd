"""The features of a channel: the numbers in its rows, or what layers read from it.

Clusters of few channels need the inner products of rows alone, which are summed parameter by parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fxprune.common.number_checks import check_numbers
from fxprune.coupling import Coupling, Group
from fxprune.passes.calibration import channel_grams, channel_points
from fxprune.passes.merge import doubled
from fxprune.pytorch.torch_private import NormBase, attribute_of

from .gram_clusters import Points, gram_of

# k-means costs channels * clusters * features; after a projection on 512, distances are off by sqrt(2 / 512) = 6 %.
_MOST_FEATURES = 1024
_PROJECTED = 512


def features(coupling: Coupling, group: Group, seed: int) -> Points:
    """Collect each channel's rows in all tied parameters, each scaled to rows of unit size.

    Returns:
        float64 [width, features]; running statistics do not count.
    """
    return projected(np.concatenate([np.zeros((group.width, 1)), *_blocks(coupling, group)], axis=1), seed)


def inner_products(coupling: Coupling, group: Group) -> Points:
    """Return the inner products of :func:`features` less their mean: float64 [width, width]."""
    gram = np.zeros((group.width, group.width))
    waiting: list[Points] = []
    for block in (*_blocks(coupling, group), None):  # many blocks are vectors, and a sum takes as long as its result
        waiting += [] if block is None else [block]
        if waiting and (block is None or sum(each.shape[1] for each in waiting) >= max(_PROJECTED, group.width)):
            gram += gram_of(np.concatenate(waiting, axis=1))
            waiting.clear()
    return gram


def _blocks(coupling: Coupling, group: Group) -> Iterator[Points]:
    """Yield the rows in each tied parameter."""
    for axis in group.tied:
        path, _, name = axis.parameter.rpartition(".")
        owner = coupling.network.get_submodule(path)
        if not (isinstance(owner, NormBase) and name in dict(owner.named_buffers(recurse=False))):
            tensor = attribute_of(owner, name)
            check_numbers([(axis.parameter, tensor)])
            block = rows_of(tensor, axis.dim, axis.positions)
            scale = np.sqrt((block**2).sum(axis=1).mean())
            if scale > 0.0:
                yield block / scale


def projected(points: Points, seed: int) -> Points:
    """Return the points as they are if features are few, else a random projection."""
    if points.shape[1] <= _MOST_FEATURES:
        return points
    from sklearn.random_projection import GaussianRandomProjection

    fewer: Points = GaussianRandomProjection(_PROJECTED, random_state=seed).fit_transform(points)
    return fewer


def rows_of(parameter: torch.Tensor, dim: int, positions: NDArray[np.int64]) -> Points:
    """Join the slices along ``dim`` in which each channel occurs: [width, occurrences * rest]."""
    width = positions.shape[0]
    rows = doubled(parameter.detach()).cpu().movedim(dim, 0)[torch.as_tensor(positions)]
    rows = torch.view_as_real(rows) if rows.is_complex() else rows
    result: Points = rows.reshape(width, -1).numpy()
    return result


def activations(coupling: Coupling, batches: Iterable[Any], *, weighted: bool) -> dict[str, tuple[Points, Points]]:
    """Map each group to points whose distances are those of what layers read, and to weights.

    Args:
        coupling: the analysis.
        batches: inputs of the network, without labels.
        weighted: weight a channel by the squared size of the columns that read it, each layer's scaled to a mean of 1;
            otherwise all weights are 1.
    """
    model = coupling.network
    grams = channel_grams(model, coupling, batches)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = {}
    for name, gram in grams.items():
        group = coupling.groups[name]
        weights = np.zeros(group.width)
        for axis in group.readers if weighted else ():
            if axis.parameter in parameters:
                sizes = (rows_of(parameters[axis.parameter], axis.dim, axis.positions) ** 2).sum(axis=1)
                weights += sizes / max(sizes.mean(), 1e-300)
        # A channel that nothing reads still needs a cluster.
        found[name] = channel_points(gram), weights + 1e-6 if weights.any() else np.ones(group.width)
    return found
