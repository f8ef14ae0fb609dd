"""A label holds the ids on the axes of a tensor; a tensor without one carries no channels."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxprune.pytorch.torch_private import pytree, storage_id

from .channels import Axes, Ids

# Of the length of an axis, the outermost first; a negative one may change with the input.
Factors = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Label:
    """The ids on each axis of a tensor.

    Attributes:
        axes: per axis, int64 ids as long as the axis, or None if the axis carries no channels.
        is_parameter: the tensor is a parameter whose values were only moved, so that its columns may be summed.
        from_parameters: it depends on parameters only, so its axes may be tokens or kernels, which carry no channels.
        constant: it depends on buffers only: numbers that no training moves.
        table: it is a buffer of several axes, which has channels only where it is added to some, or filters each.
        uniform: per axis, ids that wait for channels (:mod:`fxprune.analysis.rules.uniformity`), or None; empty: none.
        factors: per axis, the factors of its length (:mod:`fxprune.analysis.lengths.factors`); empty: all may change.
    """

    axes: Axes
    is_parameter: bool = False
    from_parameters: bool = False
    constant: bool = False
    table: bool = False
    uniform: Axes = ()
    factors: tuple[Factors, ...] = ()

    @functools.cached_property
    def has_channels(self) -> bool:
        """Tell whether an axis carries channels."""
        return any(ids is not None for ids in self.axes)

    @functools.cached_property
    def waits(self) -> bool:
        """Tell whether the ids of an axis wait for channels."""
        return any(ids is not None for ids in self.uniform)

    def waiting(self, dim: int) -> Ids | None:
        """Return the ids of an axis along which all numbers are equal; None for others."""
        return self.uniform[dim] if self.uniform else None


class Labels:
    """The labels of all tensors of one analysis.

    Attributes:
        vectors: every vector of ids on some axis, by identity.
        carried: those on an axis of an activation.
    """

    def __init__(self) -> None:
        self.vectors: dict[int, Ids] = {}
        self.carried: dict[int, Ids] = {}
        self._found: dict[int, tuple[torch.Tensor, Label]] = {}

    def of(self, tensor: torch.Tensor) -> Label:
        """Return the label of a tensor."""
        found = self._found.get(id(tensor))
        return found[1] if found else Label((None,) * tensor.dim())

    def attach(self, tensor: torch.Tensor, label: Label) -> None:
        """Label a tensor, and keep it alive, so that its identity stays unique."""
        self._found[id(tensor)] = (tensor, label)
        for axis in label.axes:
            if axis is not None:
                self.vectors[id(axis)] = axis
                if not label.from_parameters:
                    self.carried[id(axis)] = axis

    def awaken(self, ids: Ids) -> None:
        """Record that ids which waited stand for channels now."""
        self.vectors[id(ids)] = self.carried[id(ids)] = ids

    def keep_apart(self, ids: Ids) -> Ids:
        """Let ids on a part of an axis merge among themselves only."""
        self.vectors[id(ids)] = ids
        return ids

    def is_awake(self, ids: Ids) -> bool:
        """Tell whether ids that waited stand for channels now."""
        return id(ids) in self.carried

    def settled(self, label: Label) -> Label:
        """Return the label with channels on the axes of an activation that waited and met some."""
        awake = [ids is not None and self.is_awake(ids) for ids in label.uniform]
        if label.from_parameters or not any(awake):
            return label
        both = list(zip(awake, label.axes, label.uniform, strict=True))
        axes = tuple(waited if woken else ids for woken, ids, waited in both)
        return dataclasses.replace(label, axes=axes, uniform=tuple(None if woken else ids for woken, _, ids in both))

    def met(self, ids: Ids | None, label: Label, dim: int) -> Ids | None:
        """Return the ids on an axis that meets ``ids``: if it waits, it waits no longer."""
        waiting = label.waiting(dim)
        if label.axes[dim] is not None or ids is None or waiting is None:
            return label.axes[dim]
        self.awaken(waiting)
        return waiting


class StridedViews:
    """Channels that the model views with a step; the narrow network copies the kept ones.

    What it writes to such a copy, it puts back at once. No other write may be seen on both sides.
    """

    def __init__(self) -> None:
        self._viewed: dict[int, list[tuple[fx.Node | None, Ids]]] = {}
        # By memory: tensors that the running node writes to; None for one whose shape it changes in place.
        self._written: dict[int, list[torch.Tensor | None]] = {}

    def add(self, tensor: torch.Tensor, node: fx.Node | None, ids: Ids) -> None:
        """Record that a node views some of these channels of a tensor with a step."""
        self._viewed.setdefault(storage_id(tensor), []).append((node, ids))

    def write(self, tensor: torch.Tensor, *, reshapes: bool) -> None:
        """Record that the running node writes to a tensor, or changes its shape in place."""
        if self._viewed and (memory := storage_id(tensor)) in self._viewed:
            self._written.setdefault(memory, []).append(None if reshapes else tensor)

    def seen(self, node: fx.Node | None, env: Mapping[fx.Node, Any]) -> tuple[list[Ids], fx.Node | None]:
        """Return what a write by a node freezes, and the view that it wrote to, if any.

        ``env`` has the values of all nodes before it.
        """
        frozen, put_back = list[Ids](), None
        every, self._written = self._written, {}
        for memory, written in every.items():
            alike = {each for each, value in env.items() if memory in map(storage_id, tensors_in(value))}
            target = _target(node, env, written)
            behind = {view: _behind(view, alike) for view, _ in self._viewed[memory] if view is not None}
            for view, ids in self._viewed[memory]:
                if target is None or view is None:
                    frozen.append(ids)
                elif target in behind[view]:
                    inside = any(view in others for other, others in behind.items() if other is not view)
                    if inside or env[target] is not env[view]:
                        frozen.append(ids)
                    put_back = view
                elif any(user not in env and user is not node for each in behind[view] for user in each.users):
                    frozen.append(ids)
        return frozen, put_back


def _target(node: fx.Node | None, env: Mapping[fx.Node, Any], written: list[torch.Tensor | None]) -> fx.Node | None:
    """Return the node whose tensor another one certainly writes to, and to nothing else."""
    target = node.args[0] if node is not None and node.args else None
    if node is None or not isinstance(target, fx.Node) or any(x is None for x in written):
        return None
    return target if node.target is operator.setitem or all(x is env[target] for x in written) else None


def _behind(view: fx.Node, alike: Set[fx.Node]) -> set[fx.Node]:
    """Return the nodes that share memory by way of a view, itself included."""
    found, waiting = set[fx.Node](), [view]
    while waiting:
        node = waiting.pop()
        if node in alike and node not in found:
            found.add(node)
            waiting += node.users
    return found


def is_labelled(value: Any) -> bool:
    """Tell whether a value is what the analysis keeps of a tensor: (sizes, label)."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Label)


def tensors_in(values: Any) -> list[torch.Tensor]:
    """List every tensor in a nest of tuples, lists, mappings and dataclasses."""
    found: list[torch.Tensor] = []
    for value in values if type(values) in (tuple, list) else (values,):
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif type(value) in (tuple, list):
            found += tensors_in(value)
        elif type(value) is dict:
            found += tensors_in([*value.values()])
        elif value is not None and type(value) not in _NUMBERS:
            found += _inside(value)
    return found


# Most arguments of operators.
_NUMBERS = frozenset({bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format})


def _inside(value: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(value)
    if len(leaves) != 1 or leaves[0] is not value:
        return tensors_in(leaves)
    if isinstance(value, Mapping):
        return tensors_in(list(value.values()))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tensors_in([getattr(value, each.name) for each in dataclasses.fields(value)])
    return []
