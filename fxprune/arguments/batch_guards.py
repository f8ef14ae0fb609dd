"""Find the batch sizes at which a guard of a graph may turn, by what it compares.

Runs at some batch sizes say nothing of ``x.shape[0] > 7``. A comparison of two numbers that grow evenly with the batch
turns at one place; a run on both sides of it decides for all batch sizes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import fx

from fxprune.arguments.batch_values import cuts_batch, held_between, is_cut, is_cut_call, is_whole
from fxprune.arguments.guards import guard_equal

# The numbers of a graph (all values except tensors), and the sizes of tensors, in runs: batch size -> node -> value.
Numbers = Mapping[int, Mapping[fx.Node, Any]]
# A number at a batch of b is slope * b + offset.
_Line = tuple[Fraction, Fraction]

_COMPARISONS = {operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge}
_BITS = {operator.and_, operator.or_, operator.xor}
_LOGIC = {operator.not_, operator.truth, bool}
_EVEN = {operator.add, operator.sub, operator.mul, operator.neg, operator.getitem, getattr, len, int, float}
_EVEN |= {math.trunc, math.floor, math.ceil, round}  # of whole numbers, as all that lie on a line here are
_DIVISIONS = {operator.mod, operator.floordiv, operator.truediv}
_EVEN_METHODS = {"size", "numel", "nelement", "dim", "ndimension", "__len__"}


@dataclass(frozen=True)
class Turns:
    """Known facts of the guards of a graph, up to the largest batch size that is looked at.

    Attributes:
        points: the batch sizes around which guards may turn.
        unknown: a guard without known ones; None: there is none.
        last: the last batch size up to which a guard holds, where that is below the largest one; 0: none is.
    """

    points: set[int]
    unknown: fx.Node | None = None
    last: int = 0


def turning_points(graph: fx.Graph, numbers: Numbers, sizes: Numbers, given: int, most: int) -> Turns:
    """Find the batch sizes around which guards may turn, for an example of ``given`` samples.

    ``most`` is the largest batch size that is looked at.
    """
    turns = _Turns(graph, numbers, sizes)
    points: set[int] = set()
    for guard in graph.find_nodes(op="call_function", target=guard_equal):
        found = turns.of_guard(*guard.args[:2])
        if found is None:
            held = held_between(guard.args[:2], turns.evenly, given, most)
            if held is None:
                return Turns(points, unknown=guard)
            first, last = held
            if last < most:
                return Turns(points, last=last)
            found = {first - 1, first} - {0}
        points |= found
    return Turns(points)


def cuts_of_batch(graph: fx.Graph, numbers: Numbers, sizes: Numbers, least: int) -> dict[fx.Node, bool]:
    """Tell of each call that cuts the batch whether it makes one piece at all sizes of a range.

    The range is from ``least`` to the largest run; of one with more sizes than ``MOST``, nothing is told.
    """
    turns, batches = _Turns(graph, numbers, sizes), range(least, max(numbers) + 1)
    return {call: is_whole(call, turns.evenly, batches) for call in graph.nodes if cuts_batch(call, turns.evenly)}


class _Turns:
    """The turning points of what is computed from numbers; None: they are not known."""

    def __init__(self, graph: fx.Graph, numbers: Numbers, sizes: Numbers) -> None:
        self._numbers, self._sizes = numbers, sizes
        self._known: dict[fx.Node, bool] = {}
        # Between the runs, their sizes may be others than those on a line.
        self._uneven: set[fx.Node] = set()
        for node in graph.nodes:
            if not self._is_number(node) and self._is_uneven(node):
                self._uneven.add(node)

    def _is_uneven(self, node: fx.Node) -> bool:
        """Tell whether sizes come from a number that grows unevenly; pieces do not count."""
        given = node.all_input_nodes
        numbers = () if is_cut_call(node) else (n for n in given if self._is_number(n))
        return any(n in self._uneven for n in given) or any(
            not self._is_constant(n) and self._lines(n) is None for n in numbers
        )

    def evenly(self, value: Any) -> list[_Line] | None:
        """Describe how a number, or the sizes of a tensor, grow with the batch; None: not evenly."""
        if any(value not in run for run in self._sizes.values()):
            return self._lines(value)
        if value in self._uneven:
            return None
        return _fitted([(batch, [*run[value]]) for batch, run in self._sizes.items()])

    def of_guard(self, value: Any, expected: Any) -> set[int] | None:
        if isinstance(expected, bool) or self._counts_truths(value):
            return self._of_truth(value)
        return self._of_comparison(value, expected)

    def _of_truth(self, value: Any) -> set[int] | None:
        if self._is_constant(value):
            return set()
        if value.target in _COMPARISONS:
            return self._of_comparison(*value.args)
        if value.target is operator.contains:
            return self._of_search(*value.args)
        if self._joins_truths(value) or self._counts_truths(value):
            parts = [self._of_truth(each) for each in value.args]
            return None if None in parts else set().union(*(part for part in parts if part is not None))
        return self._of_comparison(value, 0)

    def _joins_truths(self, value: fx.Node) -> bool:
        """Tell whether a value is made of truths; ``&`` of other numbers joins bits."""
        is_truth = all(type(run.get(value)) is bool for run in self._numbers.values())
        return value.target in _LOGIC or (value.target in _BITS and is_truth)

    def _counts_truths(self, value: Any) -> bool:
        """Tell whether a value is a comparison, or a sum of some."""
        if not isinstance(value, fx.Node) or self._is_constant(value):
            return False
        if value.target is operator.add:
            return all(self._is_constant(n) or self._counts_truths(n) for n in value.all_input_nodes)
        return value.target in _COMPARISONS or value.target is operator.contains

    def _of_comparison(self, a: Any, b: Any) -> set[int] | None:
        if self._is_constant(a) and self._is_constant(b):
            return set()
        if self._counts_truths(a) and self._is_constant(b):
            return self._of_truth(a)
        if a is None or b is None:  # a size is not None at any batch
            return set() if self._lines(b if a is None else a) is not None else None
        left, right = self._lines(a), self._lines(b)
        if left is None or right is None or len(left) != len(right):
            return None
        return set().union(*map(_meeting, left, right))

    def _of_search(self, sizes: Any, wanted: Any) -> set[int] | None:
        """Return where a number may come into a shape, or leave it."""
        parts = sizes if isinstance(sizes, (tuple, list)) else [sizes]
        found, searched = [self._lines(part) for part in parts], self._lines(wanted)
        if None in found or searched is None:
            return None
        return set().union(*(_meeting(each, searched[0]) for lines in found for each in lines or ()))

    def _is_constant(self, value: Any) -> bool:
        """Tell whether neither a value nor a number that it comes from changes with the batch."""
        if isinstance(value, (tuple, list)):
            return all(map(self._is_constant, value))
        if not isinstance(value, fx.Node):
            return True
        if value not in self._known:
            # How many pieces there are depends on a size of a tensor.
            if is_cut(value) or not self._uneven.isdisjoint(value.all_input_nodes):
                return False
            seen = [run.get(value) for run in self._numbers.values()]
            parts = [n for n in value.all_input_nodes if any(n in run for run in self._numbers.values())]
            self._known[value] = all(each == seen[0] for each in seen) and (
                all(map(self._is_constant, parts)) or self._is_part(value)
            )
        return self._known[value]

    def _is_part(self, value: fx.Node) -> bool:
        """Tell whether a value is a part, as the height, of a size that grows evenly."""
        if value.target is not operator.getitem:
            return False
        index = value.args[1]
        bounds = (index.start, index.stop, index.step) if isinstance(index, slice) else (index,)
        return all(type(each) in (int, type(None)) for each in bounds) and self._lines(value.args[0]) is not None

    def _lines(self, value: Any) -> list[_Line] | None:
        """Describe how the number, or each of a tuple, grows with the batch; None: not evenly."""
        if isinstance(value, (tuple, list)):
            parts = [self._lines(part) for part in value]
            return None if None in parts else [line for part in parts for line in part or ()]
        if is_cut(value) or (isinstance(value, fx.Node) and not self._uneven.isdisjoint(value.all_input_nodes)):
            return None
        if not self._is_constant(value):
            even = value.target in (_EVEN_METHODS if value.op == "call_method" else _EVEN) or self._is_whole(value)
            if not even or any(self._lines(n) is None for n in value.all_input_nodes if self._is_number(n)):
                return None
        seen: list[tuple[int, list[Any]]] = []
        for batch, run in self._numbers.items():
            found: Any = run.get(value) if isinstance(value, fx.Node) else value
            seen.append((batch, [*found] if isinstance(found, (tuple, list)) else [found]))
        if any(len(row) != len(seen[0][1]) or not all(map(_is_integer, row)) for _, row in seen):
            return None
        return _fitted([(batch, [*map(int, row)]) for batch, row in seen])

    def _is_whole(self, value: fx.Node) -> bool:
        """Tell whether a number divides what its dividend grows by, or the dividend at every batch.

        The first are the windows of all samples, by the windows of one; the second, by the batch.
        """
        if value.target not in _DIVISIONS:
            return False
        parts = [self._lines(part) or [] for part in value.args]
        if [len(part) for part in parts] != [1, 1]:
            return False
        ((slope, offset),), ((grows, divisor),) = parts
        if grows:
            times = slope / grows
            return times.denominator == 1 and offset == times * divisor
        rest = offset % divisor if divisor and value.target is operator.truediv else 0
        return divisor != 0 and slope % divisor == rest == 0

    def _is_number(self, node: fx.Node) -> bool:
        return all(node in run for run in self._numbers.values())


def _is_integer(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


def _meeting(left: _Line, right: _Line) -> set[int]:
    """Return the batch sizes around which two numbers are equal."""
    (slope, offset), (other, start) = left, right
    if slope == other:
        return set()
    meet = (start - offset) / (slope - other)
    return {*range(math.floor(meet) - 1, math.ceil(meet) + 2)}


def _fitted(seen: list[tuple[int, list[int]]]) -> list[_Line] | None:
    """Lay a line through the first two points of each place; None: another point is not on it."""
    (one, first), (two, second), *_ = seen
    lines = []
    for place, (a, b) in enumerate(zip(first, second, strict=True)):
        slope = Fraction(b - a, two - one)
        offset = a - slope * one
        if any(slope * batch + offset != row[place] for batch, row in seen):
            return None
        lines.append((slope, offset))
    return lines
