"""Find the axes that calls along others leave, as a sum or a sort does."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from fxprune.pytorch.call_targets import is_own_function
from fxprune.pytorch.torch_private import OpOverload, op_arguments

from .views import ViewReader

_DIMS = ("dim", "dims", "dimension")
# Calls that add an axis; and that put a tensor into one with an axis more.
_NEW = frozenset({"stack", "view_as_real"})
_PUTS = frozenset({"select_scatter"})
# Calls whose argument ``dims`` counts axes, or repeats, and names none.
_COUNTS = frozenset({"tensordot", "tile"})


class AlongReader(ViewReader):
    """The calls of a captured graph that work along axes which an argument names."""

    def along(self, node: fx.Node) -> frozenset[int]:
        """List the axes along which a call works, as its ``dim`` says; none for other calls.

        Those of its first tensor; a call that adds an axis counts this one, too.
        """
        given = self.tensors(node)
        is_call = node.op in ("call_function", "call_method") and not is_own_function(node)
        if not is_call or self.name(node) in _COUNTS or not given:
            return frozenset()
        rank = len(self.shape(given[0]).sizes) + (self.name(node) in _NEW)
        parts = [-1] if self.name(node) in ("view_as_complex", "view_as_real") else []  # real and imaginary ones
        dims = parts or self.integers(self._dims(node))
        return frozenset(each % rank for each in dims) if rank else frozenset()

    def is_new(self, node: fx.Node, dim: int) -> bool:
        """Tell whether a call adds this axis, of tensors or of parts of complex numbers."""
        return self.name(node) in _NEW and dim in self.along(node)

    def _dims(self, node: fx.Node) -> Any:
        """Return the argument that names the axes of a call, or its default."""
        given = next((node.kwargs[each] for each in (*_DIMS, "axis") if each in node.kwargs), None)
        places = _places_of_dims(node.target if isinstance(node.target, OpOverload) else self.name(node))
        if given is not None or not places:
            return given
        stated = [node.args[at] for at, _ in places if at is not None and at < len(node.args)]
        stated = [each for each in stated if self.integers(each)]
        defaults = [default for at, default in places if default is not None and (at is None or at >= len(node.args))]
        return next(iter(stated or defaults), None)

    def left(self, node: fx.Node, dim: int, rank: int) -> list[tuple[fx.Node, int]]:
        """List the axes, one of each tensor, that a call along others leaves as one of its results.

        Args:
            node: the call.
            dim: the axis.
            rank: how many axes the result has.
        """
        along, given = self.along(node), self.tensors(node)
        if not along:
            return []
        adds = self.name(node) in _NEW | _PUTS
        outer = len(self.shape(given[0]).sizes) + (self.name(node) in _NEW)
        kept = [each for each in range(outer) if each not in along]
        is_window = self.name(node) == "unfold" and dim < outer  # which adds an axis at the end
        at = dim if rank == outer or is_window else kept[dim] if rank == len(kept) else -1
        if at not in kept:
            return []
        found = []
        for each in given:
            size = len(self.shape(each).sizes)
            if size == outer or (adds and size == len(kept)):
                found.append((each, at if size == outer else kept.index(at)))
            elif self.shape(each).labelled:
                return []
        return found


@functools.cache
def _places_of_dims(target: OpOverload | str) -> Sequence[tuple[int | None, Any]]:
    """List where each overload of an operator takes its ``dim``, and the default of it."""
    if isinstance(target, OpOverload):
        overloads = [target]
    else:
        names = (target, f"linalg_{target}", f"special_{target}")
        packet: Any = next(filter(None, (getattr(torch.ops.aten, name, None) for name in names)), None)
        overloads = [getattr(packet, name) for name in packet.overloads()] if packet is not None else []
    return [
        (None if argument.kwarg_only else at, argument.default_value if argument.has_default_value() else None)
        for overload in overloads
        for at, argument in enumerate(op_arguments(overload))
        if argument.name in _DIMS
    ]
