"""The optimizer steps on cluster means; the deviations are stored until the step is done.

What an optimizer adds to a row (weight decay, momentum and moments of it, trust ratios, weights remembered from the
first step) depends on the row itself. Rows that start at the cluster mean, with equal gradients and equal optimizer
state, stay equal under any optimizer; only the pull changes the deviation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxprune.errors import OptionError
from fxprune.passes.merge import Clusters, cluster_mean, on_device, project, rows_equal, spread
from fxprune.plans import Partition
from fxprune.pytorch.torch_private import (
    foreach_add_,
    foreach_copy_,
    foreach_mul_,
    foreach_sub,
    foreach_sub_,
    versions_of,
)

from .tied import Tied


class ClusterMeans:
    """Tied parameters as mean + deviation; between two steps a parameter holds their sum.

    What rounding takes from that sum is carried over to the next step. Otherwise a pull of less than half a unit in the
    last place would vanish: at lr * eps = 1e-3, float32 would stop at a relative deviation of 2e-5 after any number of
    steps. (Kahan 1965, compensated summation.)

    Attributes:
        rests: parameter -> what rounding took from it.
    """

    def __init__(self, tied: Sequence[Tied]) -> None:
        """Start with no stored deviations."""
        self.rests: dict[nn.Parameter, Tensor] = {}
        self._portions = _portions(tied)
        self._away: list[list[Tensor]] = []
        self._marks: dict[nn.Parameter, tuple[int, int]] = {}
        self._cuts: dict[tuple[Partition, torch.device], Clusters] = {}
        self._alike: dict[Hashable, Clusters] = {}

    def cuts(self, tied: Tied) -> list[Clusters]:
        """Return the partitions of a parameter on its device; equal partitions share one object."""
        device = tied.parameter.device
        for partition in tied.partitions:
            if (partition, device) not in self._cuts:
                alike = (partition.dim, partition.cluster.tobytes(), partition.kept.tobytes(), device)
                self._cuts[partition, device] = self._alike.setdefault(alike, on_device(partition, device))
        return [self._cuts[partition, device] for partition in tied.partitions]

    def project(self, given: Sequence[tuple[Tied, Tensor]]) -> list[Tensor]:
        """Average each tensor over clusters; it has the shape of its tied parameter."""
        return project_each([tensor for _, tensor in given], [self.cuts(tied) for tied, _ in given])

    @torch.no_grad()
    def move_to_means(self) -> None:
        """Set p <- mean over every tied axis, and store p - mean."""
        for portion in self._portions:
            parameters: list[Tensor] = [tied.parameter for tied in portion]
            means = self.project(list(zip(portion, parameters, strict=True)))
            away = foreach_sub(parameters, means)
            # Not of all, after a first step that broke off or with a state of another form.
            rested = [at for at, tied in enumerate(portion) if tied.parameter in self.rests]
            if rested:
                foreach_add_([away[at] for at in rested], [self._rest(portion[at].parameter) for at in rested])
            # At once, as far as signals go: Python looks for them after calls.
            self._away = [*self._away, list(away)]
            foreach_copy_(parameters, means)

    def load(self, rests: dict[nn.Parameter, Tensor]) -> None:
        """Take rests of a state, which need not be of the parameters as they are now."""
        self.rests, self._marks = rests, {}

    def _rest(self, parameter: nn.Parameter) -> Tensor:
        """Return what rounding can have taken from the parameter as it is now."""
        rest = self.rests[parameter]
        return rest if self._marks.get(parameter) == _mark(parameter) else possible_rest(rest, parameter)

    @torch.no_grad()
    def restore(self, shrink: Sequence[float] | None = None) -> None:
        """Set p <- p + shrink * deviation, axis by axis if several are tied.

        Args:
            shrink: of each parameter group of the optimizer; None: 1, which restores the parameters after a failed
                step.
        """
        for index in reversed(range(len(self._away))):
            portion, away = self._portions[index], self._away[index]
            if shrink is not None:
                foreach_mul_(away, [shrink[tied.group] if len(tied.partitions) == 1 else 1.0 for tied in portion])
                for tied, value in zip(portion, away, strict=True):
                    for cut in self.cuts(tied) if len(tied.partitions) > 1 else ():
                        mean = project(value, [cut])
                        value.sub_(mean).mul_(shrink[tied.group]).add_(mean)
            parameters: list[Tensor] = [tied.parameter for tied in portion]
            means = [parameter.detach().clone() for parameter in parameters]
            self._away = self._away[:index]  # at once, as above
            foreach_add_(parameters, away)
            foreach_sub_(means, parameters)
            foreach_add_(away, means)  # what rounding took
            for tied, rest in zip(portion, away, strict=True):
                self.rests[tied.parameter], self._marks[tied.parameter] = rest, _mark(tied.parameter)

    @torch.no_grad()
    def even_state(self, optimizer: Optimizer, tied: Sequence[Tied]) -> None:
        """Average the optimizer's state over clusters, once: old momentum would push members apart."""
        for each in tied:
            shape = each.parameter.shape
            for name, value in optimizer.state.get(each.parameter, {}).items():
                if not torch.is_tensor(value) or value.numel() == 1:
                    continue
                if not (value.is_floating_point() or value.is_complex()):
                    continue
                # Factored moments have a 1 where the parameter has an axis.
                if value.dim() != len(shape) or any(n not in (1, m) for n, m in zip(value.shape, shape, strict=True)):
                    raise OptionError(
                        f"the optimizer has gathered `{name}` {list(value.shape)} for `{each.name}` {list(shape)}, "
                        "which cannot be averaged over clusters: begin C-SGD with a new optimizer."
                    )
                cuts = [cut for cut in self.cuts(each) if value.shape[cut.dim] == shape[cut.dim]]
                if not all(rows_equal(value, cut) for cut in cuts):  # a mean of equal rows may differ in the last bit
                    value.copy_(project(value, cuts))


def _mark(parameter: nn.Parameter) -> tuple[int, int]:
    return parameter.data_ptr(), versions_of([parameter])[0]


def possible_rest(rest: Tensor, value: Tensor) -> Tensor:
    """Drop from ``rest``, in place, what rounding cannot have taken from ``value``."""
    return rest.masked_fill_(~(rest.abs() <= 2 * torch.finfo(rest.dtype).eps * value.abs()), 0.0)


# Numbers that are worked on at once: copies stay small, and on a GPU the calls few.
PORTION = 2**20


def _portions(tied: Sequence[Tied]) -> list[list[Tied]]:
    """Cut a list where PORTION numbers are together."""
    portions: list[list[Tied]] = []
    size = PORTION
    for each in tied:
        if size >= PORTION:
            portions.append([])
            size = 0
        portions[-1].append(each)
        size += each.parameter.numel()
    return portions


# Above this number of elements the copy costs more time than the saved calls, and memory.
SMALL = 2**16


def project_each(tensors: Sequence[Tensor], cuts: Sequence[Sequence[Clusters]]) -> list[Tensor]:
    """Project each tensor, bit for bit as :func:`~fxprune.passes.merge.clusters.project` does.

    Args:
        tensors: any shapes and devices.
        cuts: the axes to average of each; tensors whose only cut is the same object are averaged in one call.
    """
    bundles: dict[Hashable, list[int]] = {}
    for index, (tensor, axes) in enumerate(zip(tensors, cuts, strict=True)):
        alone = len(axes) != 1 or tensor.numel() > SMALL
        bundles.setdefault(index if alone else (axes[0], tensor.dtype), []).append(index)
    means: list[Tensor] = list(tensors)
    for members in bundles.values():
        if len(members) == 1:
            means[members[0]] = project(tensors[members[0]], cuts[members[0]])
            continue
        together = _project_rows([tensors[index] for index in members], cuts[members[0]][0])
        for index, mean in zip(members, together, strict=True):
            means[index] = mean
    return means


def _project_rows(tensors: Sequence[Tensor], cut: Clusters) -> list[Tensor]:
    layouts = [_layout(tensor.shape, tensor.stride(), cut.dim) for tensor in tensors]
    rows = [
        tensor.permute(layout.order).reshape(layout.shape[0], -1)
        for tensor, layout in zip(tensors, layouts, strict=True)
    ]
    along = [Clusters(0, cut.cluster, cut.kept, cut.count)]
    projected = spread(cluster_mean(torch.cat(rows, 1), along), along)
    parts = projected.split([layout.columns for layout in layouts], 1)
    return [part.view(layout.shape).permute(layout.inverse) for part, layout in zip(parts, layouts, strict=True)]


class _Layout(NamedTuple):
    """A permutation that puts the cut axis first, so that rows need no copy, and its inverse.

    The other axes keep their order in memory.
    """

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
