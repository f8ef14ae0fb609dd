"""Find the axes that a call puts into one of its results, by what it does at any size."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.node_facts import Codes, Shape
from fxprune.pytorch.call_targets import JOINS, PADS, call_kind, positional
from fxprune.pytorch.layer_sizes import is_shaped

from .along import AlongReader
from .calls import IMAGES, MOVES, PRODUCTS, REPEATS, SPATIAL, STACKS, WEIGHTS, Part, Source, is_constant


class AxisSources(AlongReader):
    """What each call of a captured graph puts into an axis of its result."""

    def of(self, result: fx.Node, dim: int) -> list[Sequence[Source]]:
        """List what lies in an axis with channels, the slowest first, for each tensor in it."""
        shape, node = self.shape(result), self.call(result)
        given, name = self.tensors(node), self.name(node)
        last = dim - len(shape.sizes)
        codes = shape.axes[dim]
        assert codes is not None
        if node.target is torch.broadcast_tensors:
            return self._aligned([given[self.integers(result.args[1])[0]]], last, shape)
        if not given:
            return []
        if not name:  # not PyTorch's: where such code brings positions to an axis of channels, sizes are guarded
            same = [(each, d) for each in given for d in self._same(each, codes)]
            return [[(each, d)] for each, d in same] or self._made(node, result, dim)
        if node.op == "call_module" and is_shaped(self.module(node)) and not self.keeps_places(node):
            return self._layered(node, given[0], dim)
        if name in WEIGHTS and len(given) > 1:
            return [[(given[1], 0)]] if dim == WEIGHTS[name] % len(shape.sizes) else self._layered(node, given[0], dim)
        if name.startswith("conv_transpose") and node.op == "call_function" and dim < 2 <= len(given):
            if dim == 0:
                return [[(given[0], 0)]]
            return [[Part(node, dim, "positions"), (given[1], 1)]]  # the groups
        if name in SPATIAL:
            space = int(name[-2]) if name.endswith("d") else len(shape.sizes) - 2
            return [[(given[0], dim)]] if dim < len(shape.sizes) - space else []
        if name in IMAGES and dim < self.leading(node):
            return [[(given[0], dim)]]
        if call_kind(node) in PADS:
            amounts: Any = positional(node.target, node.args, node.kwargs)[0][1:2] or (node.kwargs.get("pad"),)
            is_left = isinstance(amounts[0], (tuple, list)) and dim < len(shape.sizes) - len(amounts[0]) // 2
            return [[(given[0], dim)]] if is_left else []
        if name in REPEATS:
            return self._repeated(node, given[0], dim)
        if name in MOVES and node.op != "call_module":
            at = self.moved(node, given[0], dim)
            return [] if at is None else [[(given[0], at)]]
        if (along := self.joined(node)) is not None:
            return [[(each, dim) for each in given]] if along == dim else self._aligned(given, last, shape)
        if not self.keeps_places(node) and self.along(node):
            left = self.left(node, dim, len(shape.sizes))
            on = [(each, at) for each, at in left if self.shape(each).axes[at] is not None]
            return [[each] for each in on] if all(self.shape(e).sizes[at] == shape.sizes[dim] for e, at in on) else []
        if name in PRODUCTS:
            factors = [each for each in node.args if isinstance(each, fx.Node)][: 1 + PRODUCTS[name][1]]
            if len(factors) <= PRODUCTS[name][1] or any(len(self.shape(each).sizes) < 2 for each in factors):
                return []  # given by name, or a vector, which adds no axis
            given = [factors[PRODUCTS[name][last]]] if last >= -2 else given  # a mask, too, names heads
        elif not self.keeps_places(node):
            return []
        return self._aligned(given, last, shape)

    def _aligned(self, given: Sequence[fx.Node], last: int, shape: Shape) -> list[Sequence[Source]]:
        """List the axes that meet in one, counted from the last, but for those that are broadcast."""
        sizes = {each: self.shape(each).sizes for each in given}
        whole = [each for each in sizes if len(sizes[each]) >= -last and sizes[each][last] == shape.sizes[last]]
        on = [each for each in whole if self.shape(each).axes[last] is not None]
        met = [each for each in on if not is_constant(each)] or on  # constants are as long for any input
        return [[(each, len(sizes[each]) + last)] for each in met]

    def _layered(self, node: fx.Node, given: fx.Node, dim: int) -> list[Sequence[Source]]:
        """A layer makes channels; linear ones leave all axes but the last, others the first."""
        shape = self.shape(node)
        is_last = self.is_linear(node)
        if dim == (len(shape.sizes) - 1 if is_last else 1):
            return [[Part(node, dim, "channels", shape.sizes[dim])]]
        same_rank = len(self.shape(given).sizes) == len(shape.sizes)
        return [[(given, dim)]] if same_rank and (is_last or dim == 0) else []

    def _made(self, node: fx.Node, result: fx.Node, dim: int) -> list[Sequence[Source]]:
        """Return an axis that the weights of a layer make, in which no channel of its inputs is."""
        codes = self.shape(result).axes[dim]
        weights = self.module(node).parameters() if node.op == "call_module" else ()
        if codes is None or not any(weight.dim() and len(weight) == len(codes) for weight in weights):
            return []
        read = [ids for each in self.tensors(node) for ids in self.shape(each).axes if ids is not None]
        if any(np.isin(codes, ids).any() for ids in read):
            return []
        return [[Part(result, dim, "channels", len(codes))]]

    def _same(self, node: fx.Node, codes: Codes) -> list[int]:
        """List the axes that have the same channels."""
        return [d for d, each in enumerate(self.shape(node).axes) if each is not None and np.array_equal(each, codes)]

    def _repeated(self, node: fx.Node, given: fx.Node, dim: int) -> list[Sequence[Source]]:
        """What is repeated has positions in front of each axis, or behind each channel."""
        before, after = self.shape(given).sizes, self.shape(node).sizes
        at = dim - len(after) + len(before)
        if at < 0:
            return []
        counts = Part(node, dim, "positions")
        if self.shape(given).axes[at] is None:  # where the counts meet channels, they are as many
            counts = Part(node, dim, "channels", after[dim] // before[at])
        if self.name(node) == "repeat_interleave":
            along = self.integers(node.kwargs.get("dim", node.args[2:3]))
            if not along:
                return []
            return [[(given, at), counts]] if along[0] % len(after) == dim else [[(given, at)]]
        times: Any = node.args[1:]
        times = times[0] if len(times) == 1 and isinstance(times[0], (tuple, list)) else times
        once = len(times) == len(after) and times[dim] == 1
        return [[(given, at)]] if once else [[counts, (given, at)]]

    def moved(self, node: fx.Node, given: fx.Node, dim: int) -> int | None:
        """Return which axis of its input a call makes this one; None: no single one."""
        sizes = self.shape(given).sizes
        if node.args[1:] in (("real",), ("imag",)):
            return dim
        strides = [10**6 + 3 ** (at + 1) for at in range(len(sizes))]  # which no step makes equal
        values = {each: self.coupling.nodes[each.name].value for each in node.all_input_nodes}
        indices = [each for each, value in values.items() if isinstance(value, Shape) and each is not given]
        if len(indices) > 1 or not all(map(self._takes_places, indices)):
            return None
        # An index of places, for other axes, does what a slice does.
        values |= dict.fromkeys(indices, slice(0, 1)) | {given: torch.empty_strided(sizes, strides, device="meta")}
        args: Any
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        call: Any = node.target if callable(node.target) else getattr(torch.Tensor, node.target)
        if self.name(node) == "index":
            call, args = operator.getitem, (args[0], tuple(slice(None) if each is None else each for each in args[1]))
        made = call(*args, **kwargs)
        stride, size = made.stride(dim), made.shape[dim]
        is_left = size == self.shape(node).sizes[dim]
        return next((at for at, each in enumerate(strides) if is_left and each == stride and sizes[at] == size), None)

    def _takes_places(self, index: fx.Node) -> bool:
        """Tell whether an index takes places along one axis."""
        facts = self.coupling.nodes[index.name]
        return isinstance(facts.value, Shape) and len(facts.value.sizes) == 1 and not facts.is_mask

    def leading(self, node: fx.Node) -> int:
        """Return how many axes lie in front of the channels of what a call of :data:`IMAGES` gets."""
        return len(self.shape(self.tensors(node)[0]).sizes) - (2 if self.name(node) == "fold" else 3)

    def worked(self, node: fx.Node) -> frozenset[int]:
        """List the axes along which a call works, unless all places stay or tensors are joined."""
        joins = self.name(node) == "stack" or self.joined(node) is not None
        return frozenset() if joins or self.keeps_places(node) else self.along(node)

    def joined(self, node: fx.Node) -> int | None:
        """Return the axis along which a call joins tensors that have it; None for any other call."""
        shape, name = self.coupling.nodes[node.name].value, self.name(node)
        if not isinstance(shape, Shape) or node.op == "call_module":
            return None
        rank = len(shape.sizes)
        if call_kind(node) in JOINS:
            return (self.integers(node.kwargs.get("dim", node.kwargs.get("axis", node.args[1:2]))) or [0])[0] % rank
        have = all(len(self.shape(each).sizes) == rank for each in self.tensors(node))
        return min(STACKS[name], rank - 1) if name in STACKS and have else None
