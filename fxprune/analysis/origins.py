"""Every parameter and running statistic gets its own ids on each axis longer than 1."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .channels import Axes, Channels, Ids
from .labels import Label, Labels
from .marks import Marks

CONSTANT_TABLE = "a buffer from which a table is computed"


@dataclass(frozen=True, eq=False)
class Origin:
    """A parameter or running statistic, and its initial ids."""

    name: str
    axes: Axes


class Origins:
    """The stored tensors of one analysis."""

    def __init__(self, channels: Channels, labels: Labels, two_roles: Set[tuple[str, int]] = frozenset()) -> None:
        """Take the axes, by name and number, that are rows of one weight and columns of another."""
        self.found: dict[str, Origin] = {}
        self._two_roles = two_roles
        self._channels, self._labels = channels, labels
        self._names: dict[int, tuple[torch.Tensor, str]] = {}
        self._constants: set[str] = set()
        # Name of a computed weight -> its own ids, and the ids from its computation.
        self._computed: dict[str, tuple[Axes, Axes]] = {}

    def introduce(
        self, name: str, tensor: torch.Tensor, has_channels: bool, *, constant: bool = False, table: bool = False
    ) -> None:
        """Introduce a parameter, which gets ids now, or a buffer, which may get them later.

        A running statistic gets its ids when a normalisation reads it.
        """
        if constant:
            self._constants.add(name)
        if has_channels:
            axes = self._computed[name][0] if name in self._computed else self.start(name, tensor)
            lengths = tuple((size,) for size in tensor.shape)
            label = Label(axes, True, True, constant, table, factors=lengths)
            self._labels.attach(tensor, label)
        self._names[id(tensor)] = (tensor, name)

    def start(self, name: str, tensor: torch.Tensor) -> Axes:
        """Return the initial ids of a parameter or running statistic."""
        if name not in self.found:
            self.found[name] = Origin(name, self._fresh(tensor))
        return self.found[name].axes

    def has_two_roles(self, ids: Ids) -> bool:
        """Tell whether some of these ids are on an axis of two roles."""
        axes = [self.found[name].axes[dim] for name, dim in self._two_roles if name in self.found]
        return any(np.isin(ids, axis).any() for axis in axes if axis is not None)

    def statistic(self, tensor: torch.Tensor) -> Ids | None:
        """Return the ids of a running statistic [channels]; None if it is computed.

        A running statistic ties like a parameter.
        """
        found = self._names.get(id(tensor))
        return self.start(found[1], tensor)[0] if found else self._labels.of(tensor).axes[0]

    def label(self, tensor: torch.Tensor) -> Label:
        """Return the label of any tensor; that of a running statistic once it has been read."""
        _, name = self._names.get(id(tensor), (None, ""))
        label = self._labels.of(tensor)
        return Label(self.found[name].axes) if name in self.found and all(ids is None for ids in label.axes) else label

    def compute(self, name: str, tensor: torch.Tensor) -> None:
        """Give own ids to a tensor that is computed, and is read under the name of a stored one."""
        self.start(name, tensor)
        self._computed[name] = self._fresh(tensor), self._labels.of(tensor).axes

    def settle(self, marks: Marks) -> None:
        """Unite the rows of computed weights with stored rows, or freeze them.

        This comes after the last node. The columns of a computed weight keep their own ids.
        """
        read, tied = self._channels.marked(marks.columns), self._channels.marked(marks.rows)
        channel = self._channels.channel
        for name, (own, made) in self._computed.items():
            axes = list(own)
            for dim, (ids, stored, follows) in enumerate(zip(own, self.found[name].axes, made, strict=True)):
                if ids is None or stored is None:
                    continue
                if not tied[ids].any():
                    marks.freeze("", stored)
                    continue
                if follows is None or not np.array_equal(channel(follows), channel(stored)):
                    marks.freeze(f"rows along axis {dim} of a computed weight do not follow from stored rows", ids)
                if read[ids].any():
                    marks.freeze("read by columns and used by rows", ids)
                self._channels.unite(ids, stored)
                axes[dim] = stored
            self.found[name] = Origin(name, tuple(axes))
        self._freeze_lone_constants(marks)

    def _freeze_lone_constants(self, marks: Marks) -> None:
        """Freeze constants whose channels are no rows of a parameter, as a grid's are."""
        of_constants, of_parameters = list[Ids](), [np.empty(0, np.int64)]
        for name, origin in self.found.items():
            (of_constants if name in self._constants else of_parameters).extend(x for x in origin.axes if x is not None)
        if not of_constants:
            return
        tied, channel = self._channels.marked(marks.rows), self._channels.channel
        moved = np.concatenate(of_parameters)
        trained = np.zeros(self._channels.count, bool)
        trained[channel(moved[tied[moved]])] = True
        for ids in of_constants:
            if tied[ids].any() and not trained[channel(ids)].all():
                marks.freeze(CONSTANT_TABLE, ids)

    def _fresh(self, tensor: torch.Tensor) -> Axes:
        return tuple(self._channels.fresh(size) if size > 1 else None for size in tensor.shape)


def buffers_with_channels(model: nn.Module) -> dict[str, bool]:
    """Name the buffers that may have channels like a parameter; tell which are tables.

    A vector holds one number for each position of one axis: running statistics, or scales and biases that are fixed. A
    uniform tensor holds one number everywhere, and counts only if no checkpoint can change it. A table has several
    axes, as of positions, and has channels only where it is added to some, or filters each. Masks and indices have
    none, nor have constants that the trace made, which are not tensors of the model.
    """
    kept = set(model.state_dict(keep_vars=True))
    return {
        name: not _is_vector(buffer) and (name in kept or not _is_uniform(buffer))
        for name, buffer in model.named_buffers(remove_duplicate=False)
        if buffer.is_floating_point() and any(size > 1 for size in buffer.shape)
    }


def _is_vector(buffer: torch.Tensor) -> bool:
    return sum(size > 1 for size in buffer.shape) == 1


def _is_uniform(buffer: torch.Tensor) -> bool:
    return not buffer.is_meta and buffer.numel() > 1 and bool((buffer == buffer.flatten()[0]).all())
