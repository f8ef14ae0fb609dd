"""Take sums and means over the clusters of an axis, and spread them back over the axis.

Training, snap and merge are built on these functions.

With S the 0/1 matrix of clusters [clusters, length]: sum(x) = S x, spread(y) = S^T y, mean(x) = diag(S 1)^-1 S x.
S is never formed: an index vector represents it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune.plans import Partition

# Numbers of a tensor that are converted to float64 at a time.
_CHUNK = 1 << 17


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition as index tensors on one device.

    Attributes:
        dim: axis that they cut.
        cluster: int64 [length], the cluster of each position.
        kept: int64 [clusters], the position that stays for each cluster.
        count: float64 [clusters], the positions in each cluster.
    """

    dim: int
    cluster: Tensor
    kept: Tensor
    count: Tensor


def on_device(partition: Partition, device: torch.device) -> Clusters:
    """Move a partition to a device."""
    cluster = torch.as_tensor(partition.cluster, device=device)
    kept = torch.as_tensor(partition.kept, device=device)
    count = torch.bincount(cluster, minlength=len(kept)).to(torch.float64)
    return Clusters(partition.dim, cluster, kept, count)


def cluster_sum(x: Tensor, cut: Clusters) -> Tensor:
    """sum[c] = sum of x[i] over the positions i of cluster c; one entry per cluster."""
    shape = list(x.shape)
    shape[cut.dim] = len(cut.kept)
    return x.new_zeros(shape).index_add_(cut.dim, cut.cluster, x)


def cluster_mean(x: Tensor, cuts: Sequence[Clusters]) -> Tensor:
    """mean[c] = sum[c] / count[c], along every axis in ``cuts``, in float32 or higher."""
    mean = x.to(torch.promote_types(x.dtype, torch.float32))
    for cut in cuts:
        shape = [1] * x.dim()
        shape[cut.dim] = -1
        mean = cluster_sum(mean, cut).div_(cut.count.to(mean.dtype).view(shape))
    return mean.to(x.dtype)


def spread(x: Tensor, cuts: Sequence[Clusters]) -> Tensor:
    """spread[i] = x[cluster of i], along every axis in ``cuts``."""
    for cut in cuts:
        x = x.index_select(cut.dim, cut.cluster)
    return x


def project(x: Tensor, cuts: Sequence[Clusters]) -> Tensor:
    """project[i] = mean of x over the cluster of i, bit-identical for all its members.

    All axes are averaged before any is spread, so that the order of summation cannot make two members differ.
    """
    return spread(cluster_mean(x, cuts), cuts)


def doubled(x: Tensor) -> Tensor:
    """Return numbers in float64, or complex ones in complex128."""
    return x.to(torch.promote_types(x.dtype, torch.float64))


def in_float64(function: Callable[[Tensor], Tensor], x: Tensor, cuts: Sequence[Clusters]) -> Tensor:
    """Return ``function(x)``, which keeps all sizes, computed in float64 piece by piece.

    Pieces lie along an axis that no cut touches.
    """
    others = [dim for dim in range(x.dim()) if all(cut.dim != dim for cut in cuts)]
    dim = max(others, key=x.size, default=None)
    if dim is None:
        return function(doubled(x)).to(x.dtype)
    made, size = torch.empty_like(x), _positions(x, dim)
    for piece, out in zip(x.split(size, dim), made.split(size, dim), strict=True):
        out.copy_(function(doubled(piece)))
    return made


def rows_equal(x: Tensor, cut: Clusters) -> bool:
    """Tell whether the members of every cluster are bit-identical."""
    return torch.equal(x, x.index_select(cut.dim, cut.kept).index_select(cut.dim, cut.cluster))


def largest_change(old: Tensor, new: Tensor, dim: int) -> Tensor:
    """max_i |new_i - old_i| / sqrt(mean_i |old_i|^2) over the rows i along ``dim``, in float64."""
    rows = _positions(old, dim)
    pieces = zip(old.detach().split(rows, dim), new.detach().split(rows, dim), strict=True)
    both = [(_squares(doubled(b) - doubled(a), dim), _squares(doubled(a), dim)) for a, b in pieces]
    change, size = (torch.cat(each) for each in zip(*both, strict=True))
    largest, scale = change.max().sqrt(), size.mean().sqrt()
    return torch.where(largest == 0, largest, largest / scale)


def _positions(x: Tensor, dim: int) -> int:
    """Return how many positions of an axis to take at a time, as float64 is twice as large."""
    return max(1, _CHUNK * x.shape[dim] // max(x.numel(), 1))


def _squares(x: Tensor, dim: int) -> Tensor:
    others = [axis for axis in range(x.dim()) if axis != dim]
    squares = x.abs().square()
    return squares.sum(others) if others else squares
