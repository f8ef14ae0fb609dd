"""What one walk over a graph collects.

Mutable while the walk lasts, never returned: :mod:`fxprune.analysis.grouping` turns it into a coupling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from .channels import Channels, Ids

Axes = tuple[Ids | None, ...]


@dataclass(frozen=True, eq=False)
class Label:
    """Ids on each axis of a tensor.

    Attributes:
        axes: per axis, int64 ids as long as the axis, or None where the axis carries no channels.
        raw: the tensor is a parameter that has only been moved since: it may be read by summing its columns.
        parametric: only parameters went into it, so its axes may be tokens or kernels, which carry no channels.
    """

    axes: Axes
    raw: bool = False
    parametric: bool = False


@dataclass(frozen=True, eq=False)
class Source:
    """A parameter or running statistic, and the ids that it started with on each axis longer than 1."""

    name: str
    axes: Axes


@dataclass(frozen=True, eq=False)
class Event:
    """Something that happened to ids at a node: they froze, were bundled, or must stay balanced."""

    ids: Ids
    why: str
    node: fx.Node | None


@dataclass(frozen=True, eq=False)
class Fork:
    """A place where channels can be bundled in several ways: within heads or by whole heads."""

    key: str
    ids: Ids
    choice: int
    options: int


@dataclass
class Walk:
    """State of one walk: ids, labels and marks."""

    channels: Channels = field(default_factory=Channels)
    sources: dict[str, Source] = field(default_factory=dict)
    choices: Mapping[str, int] = field(default_factory=dict)
    first_choice: int = 0
    forks: list[Fork] = field(default_factory=list)
    freezes: list[Event] = field(default_factory=list)
    bundles: list[Event] = field(default_factory=list)
    balances: list[Event] = field(default_factory=list)
    products: dict[str, list[tuple[Ids, float]]] = field(default_factory=dict)
    works: dict[str, list[tuple[int, list[Ids]]]] = field(default_factory=dict)
    read: list[Ids] = field(default_factory=list)
    tied: list[Ids] = field(default_factory=list)
    vectors: dict[int, Ids] = field(default_factory=dict)
    carried: dict[int, Ids] = field(default_factory=dict)
    layers: dict[str, list[tuple[torch.Size, Label]]] = field(default_factory=dict)
    weighers: set[str] = field(default_factory=set)
    computed: dict[str, tuple[Axes, Axes]] = field(default_factory=dict)
    node: fx.Node | None = None
    rewritable: bool = False
    trying: bool = False
    inside: list[str] = field(default_factory=list)
    strided: dict[int, list[Ids]] = field(default_factory=dict)
    _labels: dict[int, tuple[torch.Tensor, Label]] = field(default_factory=dict)
    _names: dict[int, tuple[torch.Tensor, str]] = field(default_factory=dict)

    def start(self, name: str, tensor: torch.Tensor, has_channels: bool) -> None:
        """Introduce a parameter (it carries ids from now on) or a buffer (it does once a normalisation reads it)."""
        if has_channels:
            axes = self.computed[name][0] if name in self.computed else self.source(name, tensor)
            self.label(tensor, Label(axes, raw=True, parametric=True))
        self._names[id(tensor)] = (tensor, name)

    def source(self, name: str, tensor: torch.Tensor) -> Axes:
        """The ids that a parameter or running statistic starts with."""
        if name not in self.sources:
            axes = tuple(self.channels.fresh(size) if size > 1 else None for size in tensor.shape)
            self.sources[name] = Source(name, axes)
        return self.sources[name].axes

    def compute(self, name: str, tensor: torch.Tensor) -> None:
        """``tensor`` was computed from stored ones and is read under the name of one of them, with ids of its own."""
        self.source(name, tensor)
        own = tuple(self.channels.fresh(size) if size > 1 else None for size in tensor.shape)
        self.computed[name] = own, self.label_of(tensor).axes

    def settle(self) -> None:
        """The walk is over: rows of a computed weight are rows of the stored one, or freeze; columns are its own."""
        read, tied = self.channels.marked(self.read), self.channels.marked(self.tied)
        channel = self.channels.channel
        for name, (own, made) in self.computed.items():
            axes = list(own)
            for dim, (ids, stored, follows) in enumerate(zip(own, self.sources[name].axes, made, strict=True)):
                if ids is None or stored is None:
                    continue
                if not tied[ids].any():
                    self.freeze(stored, "")
                    continue
                if follows is None or not np.array_equal(channel(follows), channel(stored)):
                    self.freeze(ids, f"rows along axis {dim} of a computed weight do not follow from stored rows")
                if read[ids].any():
                    self.freeze(ids, "read by columns and used by rows")
                self.channels.unite(ids, stored)
                axes[dim] = stored
            self.sources[name] = Source(name, tuple(axes))

    def label_of(self, tensor: torch.Tensor) -> Label:
        """The label of a tensor; a tensor never seen carries no channels."""
        found = self._labels.get(id(tensor))
        return found[1] if found else Label((None,) * tensor.dim())

    def statistic(self, tensor: torch.Tensor | None) -> Ids | None:
        """Ids of a running statistic [channels], which ties like a parameter; None where there is none."""
        if tensor is None:
            return None
        found = self._names.get(id(tensor))
        return self.source(found[1], tensor)[0] if found else self.label_of(tensor).axes[0]

    def label(self, tensor: torch.Tensor, label: Label) -> None:
        """Attach a label; the tensor is kept alive, so that its identity stays its own."""
        self._labels[id(tensor)] = (tensor, label)
        for axis in label.axes:
            if axis is not None:
                self.vectors[id(axis)] = axis
                if not label.parametric:
                    self.carried[id(axis)] = axis

    def enter(self, layer: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A layer with shape attributes is called; until it is left, its attributes can be adapted."""
        self.inside.append(layer)
        if self.trying:
            return
        given = tensors_in((args, kwargs))[0]
        label = self.label_of(given)
        for sizes, earlier in self.layers.get(layer, [])[-1:]:
            # One layer has one width, also where no weight of its own ties its inputs.
            front = range(1, min(len(sizes), given.dim()))
            back = () if len(sizes) == given.dim() else range(-1, -len(front) - 1, -1)
            for dim in (*front, *back):
                before, now = earlier.axes[dim], label.axes[dim]
                if sizes[dim] != given.shape[dim] or (before is None and now is None):
                    continue
                if before is not None and now is not None:
                    self.channels.unite(before, now)
                else:
                    self.freeze(before if now is None else now, f"`{layer}` also reads positions without channels")
        self.layers.setdefault(layer, []).append((given.shape, label))

    def leave(self) -> None:
        """The call of a layer is over."""
        self.inside.pop()

    def stride(self, tensor: torch.Tensor, ids: Ids) -> None:
        """Every so many channels of a tensor are viewed; the narrow network picks the kept ones, which is a copy."""
        self.strided.setdefault(_storage(tensor), []).append(ids)

    def write(self, tensor: torch.Tensor) -> None:
        """A tensor changes in place: who views every so many channels of it must see that, and a copy would not."""
        for ids in self.strided.get(_storage(tensor), ()):
            self.freeze(ids, "a slice of channels with a step, changed in place")

    def freeze(self, ids: Ids | None, why: str) -> None:
        """These channels may not merge."""
        if ids is not None and len(ids):
            self.freezes.append(Event(ids, why, self.node))


def _storage(tensor: torch.Tensor) -> int:
    """What a tensor shares with its views; a label keeps it alive."""
    return int(tensor.untyped_storage()._cdata)


def tensors_in(values: Any) -> list[torch.Tensor]:
    """Every tensor in a nest of tuples, lists, mappings and dataclasses."""
    found: list[torch.Tensor] = []
    for leaf in pytree.tree_leaves(values):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif isinstance(leaf, Mapping):
            found += tensors_in(list(leaf.values()))
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors_in([getattr(leaf, each.name) for each in dataclasses.fields(leaf)])
    return found
