"""Guard that a view cuts channels at the same places for inputs of any size.

The numbers of a tensor lie in a row. Each axis of channels has a step in it: the product of all lengths behind. A view
cuts the row by steps of its own, one for each new axis. In the example each cut lies behind an axis of channels, in
front of it, or at a share of it; it must lie there for other inputs, too. ``[b, c, h] -> [b, h, c]`` cuts in front of
channels where ``h`` is 1, and among them elsewhere.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from torch import fx

from fxprune.arguments.guards import guard_equal
from fxprune.node_facts import Codes, Shape

from .axes import Length, Part, is_constant, product_of
from .places import guard_inputs, is_read
from .site import Site, product


class _Step(NamedTuple):
    """The product of the lengths of some axes of the wide network.

    Attributes:
        parts: the axes.
        size: the product at the example.
        length: at any size.
    """

    parts: tuple[Part, ...]
    size: int
    length: Length


# A step, and what it shall be a multiple of, or a share of.
_Pair = tuple[_Step, _Step]


def guard_cuts(site: Site, made: fx.Node) -> None:
    """Guard the cuts of a view, which is ``made`` in the narrow graph, where channels leave."""
    node, value = site.node, site.coupling.nodes[site.node.name].value
    is_view = bool(site.orders.sources.view_kind(node)) and bool(site.orders.sources.tensors(node))
    if not is_view or not isinstance(value, Shape) or not site.value.labelled or is_constant(node):
        return
    cuts = _Cuts(site, made, value)
    for at, part in enumerate(cuts.row):
        if part.kind != "positions" and cuts.is_narrower(part):
            for dim in range(1, len(value.sizes)):
                cuts.guard_beside(at, dim)
            cuts.guard_read(at)


class _Cuts:
    """The cuts of one view in the row of its numbers, and what lies in that, the slowest first."""

    def __init__(self, site: Site, made: fx.Node, value: Shape) -> None:
        self._site, self._made, self._value = site, made, value
        self.row = site.orders.row(site.orders.sources.tensors(site.node)[0])
        self._new = [Part(site.node, dim, "") for dim in range(len(value.sizes))]

    def is_narrower(self, part: Part) -> bool:
        """Tell whether a part loses channels."""
        codes = self._codes(part)
        return codes is not None and not self._site.plan.kept[codes].all()

    def guard_beside(self, at: int, dim: int) -> None:
        """Guard where the cut in front of a new axis lies beside a part of the row."""
        cut, rest = self._step(self._new[dim:]), self._step(self._new[:dim])
        behind, before = self._step(self.row[at + 1 :]), self._step(self.row[: at + 1])
        whole, front = self._step(self.row[at:]), self._step(self.row[:at])
        # What holds of two products behind holds of those in front, turned round.
        if cut.size <= behind.size:
            is_exact = cut.size == behind.size and self._has_channels_alone(dim - 1)
            self._guard([(behind, cut), (rest, before)], is_exact=is_exact)
        elif cut.size >= whole.size:
            is_exact = cut.size == whole.size and self._has_channels_alone(dim)
            self._guard([(cut, whole), (front, rest)], is_exact=is_exact)
        elif self.row[at].kind == "both":
            guard_inputs(self._site)
        else:
            self._guard([(cut, behind), (before, rest)], is_exact=True)

    def guard_read(self, at: int) -> None:
        """Guard the places of channels between positions of a new axis, if something names places."""
        behind, whole = self._step(self.row[at + 1 :]), self._step(self.row[at:])
        for dim, size in enumerate(self._value.sizes):
            first, last = self._step(self._new[dim:]), self._step(self._new[dim + 1 :])
            is_fixed = self._has_channels_alone(dim) and not self._new_length(dim).powers
            if not last.size <= behind.size < whole.size <= first.size or is_fixed:
                continue
            is_known = self.row[at].kind != "both"
            if is_known and (self._meet(dim, at) or self._meet(dim + 1, at + 1)):
                continue
            if is_read(self._site, self._site.node, size):
                if is_known:
                    self._guard([(behind, last)], is_exact=True)
                else:
                    guard_inputs(self._site)

    def _meet(self, dim: int, at: int) -> bool:
        """Tell whether the cut in front of a new axis is always in front of this part of the row."""
        sides = (self._new[:dim], self.row[:at]), (self._new[dim:], self.row[at:])
        return any(self._step(a).length == self._step(b).length for a, b in sides)

    def _guard(self, pairs: Sequence[_Pair], *, is_exact: bool) -> None:
        """Guard that a step is a multiple of another one, or this share, unless the graph tells it."""
        site, share = self._site, Fraction(pairs[0][0].size, pairs[0][1].size)
        is_exact = is_exact or share.denominator > 1  # channels that are tied are cut alike by such a share
        if any(
            a.length.over(b.length) == Length(share) or (not is_exact and a.length.is_multiple_of(b.length))
            for a, b in pairs
        ):
            return
        counted = next((each for each in pairs if all(map(self._can_count, each))), None)
        if counted is None:
            guard_inputs(site)
            return
        a, b = map(self._count, counted)
        if is_exact:
            sides = product(site.graph, [a, share.denominator]), product(site.graph, [b, share.numerator])
            equal = site.call(operator.eq, *sides)
        else:
            divisor = site.call(max, b, 1) if isinstance(b, fx.Node) else b  # no channels are in an empty tensor
            equal = site.call(operator.eq, site.call(operator.mod, a, divisor), 0)
        site.call(guard_equal, equal, True, f"whether `{site.node.name}` cuts channels as in the example")

    def _new_length(self, dim: int) -> Length:
        return self._site.orders.lengths.stated(self._site.node, dim)

    def _has_channels_alone(self, dim: int) -> bool:
        return self._value.axes[dim] is not None and dim not in self._value.varying

    def _step(self, parts: Sequence[Part]) -> _Step:
        lengths = product_of(map(self._length, parts))
        return _Step(tuple(parts), math.prod(map(self._site.orders.size, parts)), lengths)

    def _codes(self, part: Part) -> Codes | None:
        return self._site.orders.sources.shape(part.node).axes[part.dim]

    def _length(self, part: Part) -> Length:
        orders = self._site.orders
        if part in self._new:  # what it is asked for, whatever it shall hold
            return orders.lengths.stated(part.node, part.dim)
        # Channels that leave are as many for any inputs: a view that made an axis of them has been guarded.
        is_fixed = part.kind == "channels" and self.is_narrower(part)
        return Length(Fraction(part.size)) if is_fixed else orders.length(part)

    def _can_count(self, step: _Step) -> bool:
        return not any(self._site.orders.is_share(part) or self._narrow(part.node) is None for part in step.parts)

    def _count(self, step: _Step) -> Any:
        """Count at run time the numbers that the wide network has in a step."""
        site, factors, share = self._site, list[Any](), Fraction(1)
        for part in step.parts:
            shape, codes = site.orders.sources.shape(part.node), self._codes(part)
            is_share = part.kind == "channels" and not site.orders.sources.has_channels_alone(part.node, part.dim)
            if is_share or (part.kind == "channels" and self.is_narrower(part)):
                factors.append(site.orders.size(part))
                continue
            # From the last axis, since a squeeze may leave one in front.
            place = self._narrow(part.node), part.dim - len(shape.sizes)
            factors.append(site.graph.create_node("call_method", "size", place, {}, f"{site.node.name}_size"))
            share *= 1 if codes is None else Fraction(len(codes), int(site.kept(codes).sum()))
        count = product(site.graph, [*factors, share.numerator])
        return count if share.denominator == 1 else site.call(operator.floordiv, count, share.denominator)

    def _narrow(self, wide: fx.Node) -> fx.Node | None:
        """Return the node of the narrow graph that stands for one of the wide graph."""
        if wide is self._site.node:
            return self._made
        return self._site.narrow(wide)
