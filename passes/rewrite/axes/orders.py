"""Tell in which order flattened axes hold channels and positions, as far as a graph tells.

``[b, c, h] -> [b * c * h]`` is as long for two images of four rows as for four of two, and has channels at other
places. The codes of an axis are those of the example; its order says where channels are for other inputs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from torch import fx

from fxprune.coupling import Coupling
from fxprune.node_facts import Shape
from fxprune.pytorch.call_targets import INDICES, PADS, PRODUCTS, SLICES, SPLITS, call_kind

from .calls import IMAGES, Part, is_constant
from .in_order import InOrder
from .lengths import ONE, AxisLengths, Length, product_of, unknown
from .sources import AxisSources

# What lies in an axis, the slowest first.
Order = tuple[Part, ...]

# Calls that leave axes apart.
_APART = SLICES | INDICES | SPLITS | PADS | PRODUCTS


class OrderReader:
    """The orders of the axes of a captured graph, each found when it is asked for."""

    def __init__(self, coupling: Coupling) -> None:
        """Read the shapes of a coupling."""
        self.coupling = coupling
        self.sources = AxisSources(coupling)
        self.lengths = AxisLengths(self.sources)
        # What lies in an axis; None: the graph does not tell it for other inputs.
        self.of = InOrder(coupling, self._find)

    def _find(self, node: fx.Node, dim: int) -> Order | None:
        shape = self.sources.shape(node)
        kind = "positions" if shape.axes[dim] is None else "channels"
        told = self.lengths.told(node, dim)
        is_alone = self.sources.has_channels_alone(node, dim) and (told is None or not told.powers)
        is_known = kind == "positions" or is_alone or is_constant(node)
        return (Part(node, dim, kind, shape.sizes[dim]),) if is_known else self._found(node, dim)

    def _found(self, node: fx.Node, dim: int) -> Order | None:
        """Put together the order of an axis from those of what a call joins, which must agree."""
        if self.sources.view_kind(node):
            return self._cut_out(node, dim) or (Part(node, dim, "both"),)
        if self.sources.name(node) in IMAGES and dim == self.sources.leading(node):
            given = self.sources.tensors(node)[0]
            whole = Part(node, dim, "channels", self.sources.shape(node).sizes[dim])
            return None if dim in self.mixed(given) else (whole,)
        found: list[Order | None] = []
        for sources in self.sources.of(node, dim):
            orders = [(each,) if isinstance(each, Part) else self.of(*each) for each in sources]
            found.append(None if None in orders else self._joined(node, dim, list(filter(None, orders))))
        alone = [order for order in found if order is not None and {part.kind for part in order} == {"channels"}]
        if alone and not self.sources.worked(self.sources.call(node)):  # a gather reads the first places of longer axes
            return alone[0]
        if len(set(map(self._layout, found))) == 1 and found[0] is not None:
            return found[0]
        return (Part(node, dim, "channels", self.sources.shape(node).sizes[dim]),) if self._stays(node, dim) else None

    def _stays(self, node: fx.Node, dim: int) -> bool:
        """Tell whether fixed numbers pick of fixed places, in a call that leaves axes apart."""
        call, codes = self.sources.call(node), self.sources.shape(node).axes[dim]
        assert codes is not None
        leaves = bool(self.sources.worked(call)) or call_kind(call) in _APART
        values = [self.coupling.nodes[each.name].value for each in call.all_input_nodes]
        read = [
            at not in self.mixed(each)
            for each in self.sources.tensors(call)
            for at, ids in enumerate(self.sources.shape(each).axes)
            if ids is not None and np.isin(codes, ids).any()
        ]
        return leaves and all(isinstance(value, Shape) for value in values) and bool(read) and all(read)

    def _joined(self, node: fx.Node, dim: int, orders: list[Order]) -> Order:
        """Join orders; where the same channels lie behind positions in each of them, they do in all."""
        first, *others = map(self._channels_behind, orders)
        are_same = first is not None and all(np.array_equal(first, each) for each in others)
        if others and are_same and any(len(order) > 1 for order in orders):
            return (Part(node, dim, "positions"), orders[0][-1])
        return tuple(itertools.chain.from_iterable(orders))

    def _channels_behind(self, order: Order) -> Any:
        """Return the channels in an order, if all of an axis, behind positions or alone; else None."""
        *front, last = order
        codes = self.sources.shape(last.node).axes[last.dim]
        is_whole = last.kind == "channels" and codes is not None and self.size(last) == len(codes)
        return codes if is_whole and all(part.kind == "positions" for part in front) else None

    def _layout(self, order: Order | None) -> tuple[Any, ...]:
        """Return how many channels lie in an axis, and the lengths of positions between them."""
        found: list[Any] = []
        for is_positions, parts in itertools.groupby(order or (), lambda part: part.kind == "positions"):
            if is_positions:
                length = product_of(map(self.length, parts))
                found += [] if length == ONE else [length]
            else:
                found += [each if each.kind == "both" else self.size(each) for each in parts]
        return tuple(found)

    def _cut_out(self, node: fx.Node, dim: int) -> Order:
        """Return what a view cuts out of the row of its numbers for an axis; nothing if unknown.

        How far a cut lies among positions may be another for other inputs.
        """
        sizes, row = self.sources.shape(node).sizes, self.row(self.sources.tensors(node)[0])
        left, right = math.prod(sizes[dim:]), math.prod(sizes[dim + 1 :])
        found: dict[int, Part] = {}
        for at, each in enumerate(row):
            behind = math.prod(map(self.size, row[at + 1 :]))
            low, high = max(behind, right), min(behind * self.size(each), left)
            if each.kind == "positions" or low >= high:
                continue
            if (low, high) == (behind, behind * self.size(each)):
                found[at] = each
            elif each.kind == "channels" and high % low == low % behind == 0:
                found[at] = Part(node, dim, "channels", high // low)
            else:
                return ()
        if not found:
            return ()
        first, last = min(found), max(found)
        order = [found.get(at, row[at]) for at in range(first, last + 1)]
        whole, behind = (math.prod(map(self.size, row[at:])) for at in (first, last + 1))
        if left >= whole:  # not among the channels
            start = self._place(node, dim, row, range(first + 1))
            order[:0] = [Part(node, dim, "positions", left // whole, "front")] if start is None else row[start:first]
        if right <= behind:
            stop = self._place(node, dim + 1, row, range(last + 1, len(row) + 1))
            rest = [Part(node, dim, "positions", behind // right, "behind")]
            order += rest if stop is None else row[last + 1 : stop]
        return tuple(order)

    def _place(self, node: fx.Node, dim: int, row: Sequence[Part], places: range) -> int | None:
        """Return in front of which part of the row a view cuts for an axis; None if unknown."""
        asked = [self.lengths.stated(node, each) for each in range(len(self.sources.shape(node).sizes))]
        lengths = list(map(self.length, row))
        for at in places:
            if any(
                product_of(a) == product_of(b) for a, b in ((asked[:dim], lengths[:at]), (asked[dim:], lengths[at:]))
            ):
                return at
        return None

    def row(self, node: fx.Node) -> list[Part]:
        """List what lies in a tensor, the slowest first; an axis of unknown order is one part."""
        parts: list[Part] = []
        for dim, size in enumerate(self.sources.shape(node).sizes):
            parts += self._sized(self.of(node, dim) or (), size) or (Part(node, dim, "both"),)
        return parts

    def _sized(self, order: Order, size: int) -> Order:
        """Return an order with the length of each part; nothing if these do not make up the axis."""
        counts = [each for each in order if self.is_share(each) and not each.size]
        others = math.prod(self.size(each) for each in order if each not in counts)
        order = tuple(each._replace(size=size // others) if each in counts else each for each in order)
        return order if len(counts) < 2 and math.prod(map(self.size, order)) == size else ()

    def is_share(self, part: Part) -> bool:
        """Tell whether positions lie beside channels in their axis, whose length is not theirs."""
        return part.kind == "positions" and self.sources.shape(part.node).axes[part.dim] is not None

    def size(self, part: Part) -> int:
        """Return the length of a part at the example."""
        return part.size or self.sources.shape(part.node).sizes[part.dim]

    def length(self, part: Part) -> Length:
        """Return the length of a part for any inputs."""
        if part.kind == "channels" and not self.sources.has_channels_alone(part.node, part.dim):
            return Length(Fraction(part.size))
        whole = self.lengths.of(part.node, part.dim)
        if not self.is_share(part):
            return whole
        order = self.of.known(part.node, part.dim) or (part, part)  # or it is just being found
        if sum(map(self.is_share, order)) > 1:
            return unknown(part)
        return whole.over(product_of(self.length(each) for each in order if not self.is_share(each)))

    def mixed(self, node: fx.Node) -> tuple[int, ...]:
        """List the axes of a tensor that may hold positions beside channels."""
        orders = {dim: self.of(node, dim) for dim in self.sources.shape(node).varying}
        return tuple(dim for dim, order in orders.items() if not self._is_fixed(node, dim, order))

    def _is_fixed(self, node: fx.Node, dim: int, order: Order | None) -> bool:
        """Tell whether an axis has channels at the same places for any inputs, as repeated ones."""
        lengths = [self.length(part) for part in order or () if part.kind != "channels"]
        unknown = [length for length in lengths if length.powers]
        is_known = order is not None and "both" not in [part.kind for part in order]
        return is_known and (not unknown or (len(unknown) == 1 and not self.lengths.of(node, dim).powers))

    def side(self, order: Order | None) -> str:
        """Tell whether channels are all in ``front`` of positions or ``behind``; "" for neither.

        On one side, the length of the axis alone says where they are.
        """
        kinds = [part.kind for part in order or () if part.kind != "positions" or self.length(part) != ONE]
        count = kinds.count("channels")
        if not count or "both" in kinds:
            return ""
        return "front" if "positions" not in kinds[:count] else "behind" if "positions" not in kinds[-count:] else ""
