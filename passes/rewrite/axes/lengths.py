"""Lengths of axes at any size of the inputs, as products of those that nothing determines."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import fx

from fxprune.node_facts import Shape
from fxprune.pytorch.call_targets import LIKE, call_kind, positional, reads_sizes, runs_own_code

from .calls import IMAGES, MOVES, PRODUCTS, REGULARISERS, REPEATS, SUMS, WEIGHTS, is_constant, name_of
from .in_order import InOrder
from .sources import AxisSources


class Length(NamedTuple):
    """A number times powers of unknown lengths, by the names of these."""

    number: Fraction = Fraction(1)
    powers: frozenset[tuple[Any, int]] = frozenset()

    def over(self, other: Length) -> Length:
        """Divide by another length."""
        powers = Counter(dict(self.powers))
        powers.subtract(dict(other.powers))
        return Length(self.number / other.number, frozenset((name, power) for name, power in powers.items() if power))

    def is_multiple_of(self, other: Length) -> bool:
        """Tell whether another length divides this one, whatever the unknown ones are."""
        number, powers = self.over(other)
        return number.denominator == 1 and all(power > 0 for _, power in powers)


ONE = Length()
OPEN = Length(Fraction(-1))  # asked for by a view: what is left


def product_of(lengths: Iterable[Length]) -> Length:
    """Multiply lengths."""
    total = ONE
    for each in lengths:
        total = total.over(ONE.over(each))
    return total


def unknown(name: Any) -> Length:
    """Return a length of which nothing is known but its name."""
    return Length(powers=frozenset({(name, 1)}))


class AxisLengths:
    """The lengths of the axes of a captured graph, each found when it is asked for."""

    def __init__(self, sources: AxisSources) -> None:
        """Take what tells which axes a call leaves."""
        self._sources = sources
        self.of = InOrder(sources.coupling, self._find)  # the length of an axis of a tensor of the wide network
        self._told: dict[tuple[fx.Node, int], Length | None] = {}
        self._whole: dict[fx.Node, Length] = {}

    def _find(self, node: fx.Node, dim: int) -> Length:
        shape = self._sources.shape(node)
        fixed = Length(Fraction(shape.sizes[dim]))
        if is_constant(node):
            return fixed
        if _is_moved_in_place(node):
            return unknown((node, dim))
        # What a view makes channels of at the example may be another length elsewhere.
        if (found := self.told(node, dim)) is not None:
            return found
        return fixed if self._sources.has_channels_alone(node, dim) else unknown((node, dim))

    def stated(self, node: fx.Node, dim: int) -> Length:
        """Return the length that a call states for an axis, whatever it holds at the example."""
        found = self.told(node, dim)
        return unknown((node, dim)) if found is None else found

    def told(self, node: fx.Node, dim: int) -> Length | None:
        """Return the length that a call states for an axis; None where it says nothing of lengths."""
        if (node, dim) not in self._told:
            self._told[node, dim] = self._found(node, dim, self._sources.shape(node))
        return self._told[node, dim]

    def whole(self, node: fx.Node) -> Length:
        """Return how many numbers a tensor has."""
        if node not in self._whole:
            rank = len(self._sources.shape(node).sizes)
            self._whole[node] = product_of(self.of(node, dim) for dim in range(rank))
        return self._whole[node]

    def _found(self, result: fx.Node, dim: int, shape: Shape) -> Length | None:
        sources = self._sources
        node = sources.call(result)
        given, name, last = sources.tensors(node), sources.name(node), dim - len(shape.sizes)
        if node.op in ("placeholder", "get_attr") or not given:
            return None
        first = sources.shape(given[0]).sizes
        if runs_own_code(node) and name not in REGULARISERS:
            return None
        if call_kind(node) in LIKE:
            return self.of(given[1], dim)
        if sources.view_kind(node):
            return self._viewed(node, given[0], dim)
        if name in MOVES and node.op != "call_module":
            return self._moved(node, given[0], dim)
        if name in PRODUCTS:
            factors = [each for each in node.args if isinstance(each, fx.Node)][: PRODUCTS[name][1] + 1]
            if len(factors) <= PRODUCTS[name][1] or any(len(sources.shape(each).sizes) < 2 for each in factors):
                return None
            return self._aligned([factors[PRODUCTS[name][last]]] if last >= -2 else factors, last)
        if name in REPEATS:
            return self._repeated(node, given[0], dim)
        if (along := sources.joined(node)) is not None:
            return self._joined(node, given, dim) if along == dim else self._aligned(given, last)
        if name in IMAGES and dim < sources.leading(node):
            return self.of(given[0], dim)
        if sources.is_new(node, dim):
            return Length(Fraction(shape.sizes[dim]))
        if (dims := sources.along(node)) and not sources.keeps_places(node):
            summed = name in SUMS and len(first) == len(shape.sizes) and dim in dims
            return ONE if summed else self._agreed(sources.left(node, dim, len(shape.sizes)))
        is_layer = node.op == "call_module" or name in WEIGHTS
        if is_layer and sources.is_linear(node) and last < -1:
            return self.of(given[0], dim)
        if is_layer and dim == 0 and name.startswith("conv") and f"{len(first) - 2}d" in name:  # of several images
            return self.of(given[0], 0)
        return self._aligned(given, last) if sources.keeps_places(node) else None

    def _agreed(self, axes: Sequence[tuple[fx.Node, int]]) -> Length | None:
        """Return the length of axes, if it is the same."""
        found = {self.of(*each) for each in axes}
        return found.pop() if len(found) == 1 else None

    def _joined(self, node: fx.Node, given: Sequence[fx.Node], dim: int) -> Length:
        """Return the length of an axis along which tensors are joined: a sum of like lengths."""
        lengths = [self.of(each, dim) for each in given]
        if len({each.powers for each in lengths}) == 1:
            return Length(sum((each.number for each in lengths), Fraction()), lengths[0].powers)
        return unknown((node, dim))

    def _moved(self, node: fx.Node, given: fx.Node, dim: int) -> Length | None:
        """Return the length of an axis that moves, or is new; that of a slice may be the example's."""
        name, at = self._sources.name(node), self._sources.moved(node, given, dim)
        if name == "squeeze" and not self._leaves_axes(node, given, at):
            return None
        if name in ("expand", "broadcast_to"):
            return self._expanded(node, given, dim)
        if name == "getitem":
            index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
            if at is not None:
                rank = len(self._sources.shape(given).sizes)
                return self.of(given, at) if _asked_of(index, at, rank) == slice(None) else None
            if not all(each is None or each is ... or type(each) is int or each == slice(None) for each in index):
                return None
        if at is None:
            return ONE if name in ("unsqueeze", "getitem") else None
        return self.of(given, at)

    def _expanded(self, node: fx.Node, given: fx.Node, dim: int) -> Length | None:
        """Return what an expansion asks for; -1 leaves an axis."""
        rank = len(self._sources.shape(node).sizes)
        sizes: Any = positional(node.target, node.args, node.kwargs)[0][1:]
        sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
        at = dim - rank + len(self._sources.shape(given).sizes)
        if len(sizes) != rank:
            return None
        return self.of(given, at) if sizes[dim] == -1 else self.number(sizes[dim])

    def _leaves_axes(self, node: fx.Node, given: fx.Node, at: int | None) -> bool:
        """Tell whether a squeeze takes the same axes away for any inputs, or such behind this one."""
        rank = len(self._sources.shape(given).sizes)
        dims = [each % rank for each in self._sources.integers(node.kwargs.get("dim", node.args[1:2]))]
        always = all(self.of(given, each) == ONE for each in dims)
        return bool(dims) and (always or (at is not None and at < min(dims)))

    def _repeated(self, node: fx.Node, given: fx.Node, dim: int) -> Length | None:
        """Return the length of an axis that is repeated a number of times, or left."""
        rank, name = len(self._sources.shape(node).sizes), self._sources.name(node)
        at = dim - rank + len(self._sources.shape(given).sizes)
        if name == "repeat_interleave":
            along = self._sources.integers(node.kwargs.get("dim", node.args[2:3]))
            given_times = node.kwargs.get("repeats", node.args[1] if len(node.args) > 1 else None)
            times: Any = given_times if along and along[0] % rank == dim else 1
        else:
            counts: Any = node.args[1:]
            counts = counts[0] if len(counts) == 1 and isinstance(counts[0], (tuple, list)) else counts
            along, times = [dim], counts[dim] if len(counts) == rank else None
        if not along or not isinstance(times, (int, fx.Node)):
            return None
        return product_of([self.of(given, at) if at >= 0 else ONE, self.number(times)])

    def _aligned(self, given: Sequence[fx.Node], last: int) -> Length | None:
        """Return the length on which tensors agree, but for those that are broadcast for any inputs."""
        ranks = {each: len(self._sources.shape(each).sizes) for each in given}
        axes = [(each, rank + last) for each, rank in ranks.items() if rank >= -last]
        return self._agreed(axes) or self._agreed([each for each in axes if self.of(*each) != ONE])

    def _viewed(self, node: fx.Node, given: fx.Node, dim: int) -> Length | None:
        """Return what a view asks for, or what it leaves for -1."""
        rank = len(self._sources.shape(node).sizes)
        if self._sources.view_kind(node) in ("flatten", "ravel"):
            if not self._sources.shape(given).sizes:
                return ONE
            joined = self._sources.joined_by(node, len(self._sources.shape(given).sizes))
            after = dim + max(len(joined) - 1, 0) * (dim > joined[0])
            return product_of(self.of(given, each) for each in (joined if dim == joined[0] else (after,)))
        asked = self._asked(node, rank)
        if not asked:
            return None
        if self._sources.view_kind(node) == "unflatten":
            first = min(asked)
            if dim not in asked:
                return self.of(given, dim if dim < first else dim - len(asked) + 1)
            total = self.of(given, first)
        else:
            total = self.whole(given)
        size = asked[dim]
        return total.over(product_of(each for each in asked.values() if each is not None)) if size is None else size

    def _asked(self, node: fx.Node, rank: int) -> dict[int, Length | None]:
        """Return the lengths that a view asks for, by axis; None for -1."""
        asked = self._sources.asked(node, rank)
        given = node.args[1] if not asked and len(node.args) == 2 and node.op != "call_module" else None
        if isinstance(given, fx.Node):
            lengths = self._numbers(given)
            is_known = lengths is not None and len(lengths) == rank
            return {dim: None if each == OPEN else each for dim, each in enumerate(lengths or ()) if is_known}
        numbers = {dim: self.number(size) for dim, size in asked.items()}
        return {dim: None if each == OPEN else each for dim, each in numbers.items()}

    def number(self, value: Any) -> Length:
        """Return a number that the graph computes of lengths."""
        if isinstance(value, int):
            return Length(Fraction(value))
        if not isinstance(value, fx.Node):
            return unknown(str(value))
        if value.target is operator.mul and len(value.args) == 2:
            return product_of(map(self.number, value.args))
        if value.target is operator.floordiv and len(value.args) == 2:
            a, b = map(self.number, value.args)
            return a.over(b) if a.is_multiple_of(b) else unknown((operator.floordiv, a, b))
        if value.target is operator.getitem and isinstance(value.args[1], int):
            numbers = self._numbers(value.args[0])
            return unknown(value) if numbers is None else numbers[value.args[1]]
        if reads_sizes(value) and (numbers := self._numbers(value)) is not None and len(numbers) == 1:
            return numbers[0]
        return unknown(value)

    def _numbers(self, value: Any) -> list[Length] | None:
        """Return the lengths in a tuple of the graph, or the one that it reads; None if unknown."""
        if isinstance(value, (tuple, list)):
            return list(map(self.number, value))
        if not isinstance(value, fx.Node):
            return None
        if reads_sizes(value):
            tensor: Any = value.args[0]
            if _is_moved_in_place(tensor):
                return None
            if not isinstance(self._sources.coupling.nodes[tensor.name].value, Shape):
                numbers = self._numbers(tensor)
                return [product_of(numbers)] if numbers is not None and value.target == "numel" else None
            lengths = [self.of(tensor, dim) for dim in range(len(self._sources.shape(tensor).sizes))]
            if value.target in ("numel", "nelement", torch.numel):
                return [product_of(lengths)]
            if value.target in ("dim", "ndim") or "ndim" in value.args:
                return None
            at = value.kwargs.get("dim", value.args[1] if value.target == "size" and len(value.args) > 1 else None)
            at = 0 if value.target == "__len__" else at
            return lengths if at is None else [lengths[at]] if isinstance(at, int) else None
        if value.target is operator.getitem and isinstance(value.args[1], slice):
            numbers, part = self._numbers(value.args[0]), value.args[1]
            is_known = all(each is None or isinstance(each, int) for each in (part.start, part.stop, part.step))
            return numbers[part] if numbers is not None and is_known else None
        if value.target is operator.add:
            a, b = map(self._numbers, value.args)
            return None if a is None or b is None else a + b
        return None


def _asked_of(index: Sequence[Any], dim: int, rank: int) -> Any:
    """Return what an index asks of an axis of a tensor."""
    items = [each for each in index if each is not None]
    fill = [slice(None)] * (rank - sum(each is not ... for each in items))
    places = [at for at, each in enumerate(items) if each is ...] or [len(items)]
    return [*items[: places[0]], *fill, *items[places[0] + 1 :]][dim]


def _is_moved_in_place(node: fx.Node) -> bool:
    """Tell whether a call in place moves axes of a tensor."""
    return any(name_of(user.target) in MOVES and str(user.target).endswith("_") for user in node.users)
