"""Tell in which order flattened axes hold channels and positions, as far as a graph tells.

``[b, c, h] -> [b * c * h]`` is as long for two images of four rows as for four of two, and has channels at other
places. The codes of an axis are those of the example; its order says where channels are for other inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from torch import fx

from fxprune.coupling import Coupling
from fxprune.node_facts import Shape
from fxprune.pytorch.call_targets import FLATTENS, JOINS, LIKE, PRODUCTS, VIEWS, canonical_call

from .calls import MOVES, SUMS, Part, is_constant
from .sources import AxisSources

# What lies in an axis, the slowest first.
Order = tuple[Part, ...]

_GUARDED = VIEWS | FLATTENS | PRODUCTS | LIKE


class AxisOrders:
    """The orders of the axes of a captured graph, each found when it is asked for."""

    def __init__(self, coupling: Coupling) -> None:
        """Read the shapes of a coupling."""
        self.coupling = coupling
        self.sources = AxisSources(coupling)
        self._known: dict[tuple[fx.Node, int], Order | None] = {}

    def of(self, node: fx.Node, dim: int) -> Order | None:
        """Return what lies in an axis; None: the graph does not tell it for other inputs."""
        if (node, dim) not in self._known:
            shape = self.sources.shape(node)
            kind = "positions" if shape.axes[dim] is None else "channels"
            is_known = kind == "positions" or dim not in shape.varying or is_constant(node)
            self._known[node, dim] = (Part(node, dim, kind, shape.sizes[dim]),) if is_known else self._found(node, dim)
        return self._known[node, dim]

    def _found(self, node: fx.Node, dim: int) -> Order | None:
        """Put together the order of an axis from those of what a call joins, which must agree."""
        found: set[Order | None] = set()
        for sources in self.sources.of(node, dim):
            orders = [self._made(each) if isinstance(each, Part) else self.of(*each) for each in sources]
            found.add(None if None in orders else tuple(itertools.chain.from_iterable(filter(None, orders))))
        alone = [order for order in found if order is not None and {part.kind for part in order} == {"channels"}]
        return alone[0] if alone else found.pop() if len(found) == 1 else None

    def _made(self, part: Part) -> Order | None:
        """Return what a call makes itself: channels where it parts these alone, or states them."""
        if part.kind != "both":
            return (part,)
        codes = self.sources.shape(part.node).axes[part.dim]
        if codes is not None and len(np.unique(codes)) == len(codes) and self.sources.has_stated(part.node, part.dim):
            return (part._replace(kind="channels", size=len(codes)),)
        orders = [self.of(*each) for each in self.sources.parted(part.node, part.dim)]
        kinds, size = {each.kind for order in orders for each in order or ()}, 0 if codes is None else len(codes)
        return (
            None if None in orders else (part._replace(kind="channels", size=size) if kinds == {"channels"} else part,)
        )

    def mixed(self, node: fx.Node) -> tuple[int, ...]:
        """List the axes of a tensor that may hold positions beside channels."""
        orders = {dim: self.of(node, dim) for dim in self.sources.shape(node).varying}
        return tuple(
            dim for dim, order in orders.items() if order is None or {part.kind for part in order} != {"channels"}
        )

    def side(self, order: Order | None) -> str:
        """Tell whether channels are all in ``front`` of positions or ``behind``; "" for neither.

        On one side, the length of the axis alone says where they are.
        """
        kinds = [part.kind for part in order or ()]
        count = kinds.count("channels")
        if not count or "both" in kinds:
            return ""
        return "front" if "positions" not in kinds[:count] else "behind" if "positions" not in kinds[-count:] else ""

    def are_unsure(self, node: fx.Node, narrowing: Callable[[Shape], Shape]) -> bool:
        """Tell whether a call may bring other channels together for other inputs.

        Args:
            node: the call.
            narrowing: leaves codes only on axes that become narrower.
        """
        along = self.sources.joined(node) if canonical_call(node.target) in JOINS else None  # where nothing meets
        axes = [
            [
                (each, dim)
                for dim, codes in enumerate(narrowing(self.sources.shape(each)).axes)
                if codes is not None and dim != along
            ]
            for each in self.sources.tensors(node)
            if not is_constant(each)
        ]
        mixed = [(each, dim) for each, dim in itertools.chain(*axes) if dim in self.mixed(each)]
        if not mixed or node.op == "output" or canonical_call(node.target) in LIKE:
            return False
        if not self._has_guards(node) and not all(self.side(self.of(*each)) for each in mixed):
            return True
        return any(
            self._part_ways(one, other)
            for first, second in itertools.combinations(axes, 2)
            for one, other in itertools.product(first, second)
        )

    def _part_ways(self, one: tuple[fx.Node, int], other: tuple[fx.Node, int]) -> bool:
        """Tell whether two axes of one length may have channels at other places for other inputs."""
        lengths = {self.sources.shape(node).sizes[dim] for node, dim in (one, other)}
        orders = [self.of(node, dim) for node, dim in (one, other) if dim in self.mixed(node)]
        if len(lengths) > 1 or not orders or (len(orders) == 2 and orders[0] == orders[1] is not None):
            return False
        sides = {self.side(order) for order in orders}
        return len(sides) > 1 or "" in sides

    def _has_guards(self, node: fx.Node) -> bool:
        """Tell whether a call treats all places alike, or has guards of its own, as one of weights."""
        name = self.sources.name(node)
        if node.op == "call_module" and next(self.sources.module(node).parameters(), None) is not None:
            return True
        return self.sources.keeps_places(node) or name in MOVES | SUMS or canonical_call(node.target) in _GUARDED
