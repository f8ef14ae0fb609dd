"""Merge an activation of the wide network into the one that the narrow network must have."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fxprune.node_facts import Codes, Shape
from fxprune.plans import Plan

Shares = Mapping[str, NDArray[np.float64]]


def merge_value(value: Tensor, shape: Shape, plan: Plan, shares: Shares | None = None) -> Tensor:
    """merged[c] = sum of share_i value[i] over the channels i of cluster c, along every axis.

    Args:
        value: of the wide network.
        shape: its codes; sizes of other axes may differ.
        plan: the clusters.
        shares: group name -> float64 [width], which sum to 1 over a cluster; None: 1 / size of the cluster.
    """
    weights = cluster_shares(plan, shares)
    for dim, codes in enumerate(shape.axes):
        if codes is None or plan.kept[codes].all():
            continue
        target, count = merged_positions(codes, plan)
        share = torch.as_tensor(weights[codes], dtype=value.dtype, device=value.device)
        scaled = value * share.view([-1 if axis == dim else 1 for axis in range(value.dim())])
        sizes = list(value.shape)
        sizes[dim] = count
        index = torch.as_tensor(target, device=value.device)
        value = value.new_zeros(sizes).index_add_(dim, index, scaled)
    return value


def cluster_shares(plan: Plan, shares: Shares | None = None) -> NDArray[np.float64]:
    """Return the share of each code in the mean of its cluster, float64 [channels + 1].

    The last entry is for code -1.
    """
    weights = 1.0 / plan.sizes
    for name, given in (shares or {}).items():
        group = plan.coupling.groups[name]
        weights[group.offset : group.offset + group.width] = given
    return weights


def merged_positions(codes: Codes, plan: Plan) -> tuple[NDArray[np.int64], int]:
    """Map each position of an axis to that of the narrow axis, and return the narrow length.

    The k-th position of a code goes where the k-th position of the code that represents it goes.
    """
    kept = plan.kept[codes]
    representative = np.where(codes < 0, -1, plan.representative[codes])
    narrow = np.cumsum(kept) - 1
    place = {key: narrow[p] for p, key in enumerate(_occurrences(codes)) if kept[p]}
    target = np.array(
        [
            narrow[p] if codes[p] < 0 else place[int(representative[p]), occurrence]
            for p, (_, occurrence) in enumerate(_occurrences(codes))
        ]
    )
    return target, int(kept.sum())


def _occurrences(codes: Codes) -> list[tuple[int, int]]:
    """Pair each code with how many positions before it hold the same code."""
    seen: dict[int, int] = {}
    pairs = []
    for code in codes.tolist():
        seen[code] = seen.get(code, -1) + 1
        pairs.append((code, seen[code]))
    return pairs
