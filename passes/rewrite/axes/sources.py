"""Find the axes that a call puts into one of its results, by what it does at any size."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.node_facts import Codes, Shape
from fxprune.pytorch.call_targets import JOINS, canonical_call, runs_own_code
from fxprune.pytorch.layer_sizes import is_shaped
from fxprune.pytorch.torch_private import is_torch

from .calls import MOVES, PRODUCTS, REGULARISERS, REPEATS, SHIFTS, SPATIAL, SUMS, WEIGHTS, Part, Source, is_constant
from .views import ViewReader


class AxisSources(ViewReader):
    """What each call of a captured graph puts into an axis of its result."""

    def of(self, node: fx.Node, dim: int) -> list[Sequence[Source]]:
        """List what lies in an axis with channels, the slowest first, for each tensor in it."""
        shape, given, name = self.shape(node), self.tensors(node), self.name(node)
        last = dim - len(shape.sizes)
        codes = shape.axes[dim]
        assert codes is not None
        if (tensor := self._broadcast(node)) is not None:
            return self._aligned([tensor], last, shape)
        if (tensor := self.cut(node, dim)) is not None:
            return [[(tensor, dim)]]
        if not given:
            return []
        if runs_own_code(node) and name not in REGULARISERS:
            return []
        if node.op == "call_module" and is_shaped(self.module(node)) and not self.keeps_places(node):
            return self._layered(node, given[0], dim)
        if name in WEIGHTS and len(given) > 1:
            return [[(given[1], 0)]] if dim == WEIGHTS[name] % len(shape.sizes) else self._layered(node, given[0], dim)
        if name.startswith("conv_transpose") and node.op == "call_function" and dim < 2 <= len(given):
            if dim == 0:
                return [[(given[0], 0)]]
            return [[Part(node, dim, "positions"), (given[1], 1)]]  # the groups
        if node.op == "call_function" and not is_torch(getattr(node.target, "__module__", None)):  # kept, and tried
            return [[(given[0], d)] for d in self._same(given[0], codes)]
        if name in SPATIAL:
            space = int(name[-2]) if name.endswith("d") else len(shape.sizes) - 2
            return [[(given[0], dim)]] if dim < len(shape.sizes) - space else []
        if name in SUMS and isinstance(kept := self.left(node, given[0], dim), int):
            return [[(given[0], kept)]]
        if name in REPEATS:
            return self._repeated(node, given[0], dim)
        if name in MOVES and node.op != "call_module":
            at = self.moved(node, given[0], dim)
            return [] if at is None else [[(given[0], at)]]
        if canonical_call(node.target) in JOINS:
            along = self.joined(node)
            return [[(each, dim) for each in given]] if along == dim else self._aligned(given, last, shape)
        if name in SHIFTS:
            return [[(given[0], dim)]] if self._leaves(node, dim) else []
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

    def _same(self, node: fx.Node, codes: Codes) -> list[int]:
        """List the axes that have the same channels."""
        return [d for d, each in enumerate(self.shape(node).axes) if each is not None and np.array_equal(each, codes)]

    def left(self, node: fx.Node, given: fx.Node, dim: int) -> int | None:
        """Return which axis of its input a sum leaves as this one; None if that is not stated."""
        rank, at = len(self.shape(given).sizes), 2 if "norm" in self.name(node) else 1
        dims = self.integers(node.kwargs.get("dim", node.kwargs.get("axis", node.args[at : at + 1])))
        if not dims:
            return None
        summed = {each % rank for each in dims}
        left = [d for d in range(rank) if d not in summed]
        if len(self.shape(node).sizes) == rank:
            return dim if dim in left else None
        return left[dim] if len(left) == len(self.shape(node).sizes) else None

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
        strides = [10**6 + 3 ** (at + 1) for at in range(len(sizes))]  # which no step makes equal
        values = {each: self.coupling.nodes[each.name].value for each in node.all_input_nodes}
        if any(isinstance(value, Shape) for each, value in values.items() if each is not given):
            return None  # an index
        values[given] = torch.empty_strided(sizes, strides, device="meta")
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        call: Any = node.target if callable(node.target) else getattr(torch.Tensor, node.target)
        made = call(*args, **kwargs)
        stride, size = made.stride(dim), made.shape[dim]
        return next((at for at, each in enumerate(strides) if each == stride and sizes[at] == size), None)

    def _leaves(self, node: fx.Node, dim: int) -> bool:
        """Tell whether a call that shifts or flips axes leaves one."""
        dims = self.integers(node.kwargs.get("dims", node.args[2 if self.name(node) == "roll" else 1 :]))
        return bool(dims) and all(each % len(self.shape(node).sizes) != dim for each in dims)

    def joined(self, node: fx.Node) -> int:
        """Return the axis along which a call joins tensors."""
        dims = self.integers(node.kwargs.get("dim", node.kwargs.get("axis", node.args[1:2]))) or [0]
        return dims[0] % len(self.shape(node).sizes)

    def cut(self, node: fx.Node, dim: int) -> fx.Node | None:
        """Return the tensor of which a node takes a piece along another axis."""
        source = node.args[0] if node.target is operator.getitem else None
        if not isinstance(source, fx.Node) or self.name(source) not in (
            "chunk",
            "split",
            "split_with_sizes",
            "tensor_split",
        ):
            return None
        along = self.integers(source.kwargs.get("dim", source.args[2:3])) or [0]
        return self.tensors(source)[0] if along[0] % len(self.shape(node).sizes) != dim else None

    def _broadcast(self, node: fx.Node) -> fx.Node | None:
        """Return the tensor that a node takes from several which were broadcast."""
        source, at = node.args[:2] if node.target is operator.getitem else (None, None)
        if isinstance(source, fx.Node) and source.target is torch.broadcast_tensors and isinstance(at, int):
            return self.tensors(source)[at]
        return None
