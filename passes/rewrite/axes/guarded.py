"""Tell which calls may bring other channels together for other inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import fx

from fxprune.node_facts import Shape
from fxprune.pytorch.call_targets import FLATTENS, LIKE, PRODUCTS, REWRITABLE, VIEWS, call_kind, runs_own_code

from .calls import CUTS, IMAGES, MOVES, SPATIAL, SUMS, WEIGHTS, is_constant
from .orders import OrderReader

_GUARDED = VIEWS | FLATTENS | PRODUCTS | LIKE


class AxisOrders(OrderReader):
    """The orders of the axes of a captured graph, and the calls that need guards."""

    def are_unsure(self, node: fx.Node, narrowing: Callable[[Shape], Shape]) -> bool:
        """Tell whether a call may bring other channels together for other inputs.

        Args:
            node: the call.
            narrowing: leaves codes only on axes that become narrower.
        """
        axes = self._narrower(node, narrowing)
        mixed = [(each, dim) for each, dim in itertools.chain(*axes) if dim in self.mixed(each)]
        if not mixed or node.op == "output" or call_kind(node) in LIKE:
            return False
        if not self._has_guards(node) and not all(self.side(self.of(*each)) for each in mixed):
            return True
        return any(
            self._part_ways(one, other, are_as_long=not self.sources.worked(node))
            for first, second in itertools.combinations(axes, 2)
            for one, other in itertools.product(first, second)
        )

    def _narrower(self, node: fx.Node, narrowing: Callable[[Shape], Shape]) -> list[list[tuple[fx.Node, int]]]:
        """List the axes of the tensors of a call that become narrower, but that of a join."""
        along = self.sources.joined(node)
        return [
            [
                (each, dim)
                for dim, codes in enumerate(narrowing(self.sources.shape(each)).axes)
                if codes is not None and dim != along
            ]
            for each in self.sources.tensors(node)
            if not is_constant(each)
        ]

    def cut(self, node: fx.Node, narrowing: Callable[[Shape], Shape]) -> list[tuple[fx.Node, int]]:
        """List the axes of positions and channels that a call may cut by how long they are.

        Args:
            node: the call; not one that the rewrite adapts.
            narrowing: leaves codes only on axes that become narrower.
        """
        is_adapted = call_kind(node) in REWRITABLE and self.sources.name(node) not in CUTS
        if self._has_guards(node) or node.op == "output" or is_adapted:
            return []
        along = self.sources.worked(node)
        axes = itertools.chain(*self._narrower(node, narrowing))
        return [
            (each, dim)
            for each, dim in axes
            if dim in self.mixed(each) and (not along or dim in along) and self.lengths.of(each, dim).powers
        ]

    def lost(self, node: fx.Node, narrowing: Callable[[Shape], Shape]) -> list[int]:
        """List the axes of a result whose order a call loses, unless it has guards of its own.

        Args:
            node: a result of the call.
            narrowing: leaves codes only on axes that become narrower.
        """
        call = self.sources.call(node)
        is_known = self._has_guards(call) or self.sources.worked(call) or self.sources.joined(call) is not None
        if is_known or call.op in ("placeholder", "output") or call_kind(call) in REWRITABLE:
            return []
        axes = narrowing(self.sources.shape(node)).axes
        return [dim for dim, codes in enumerate(axes) if codes is not None and self.of(node, dim) is None]

    def _part_ways(self, one: tuple[fx.Node, int], other: tuple[fx.Node, int], *, are_as_long: bool) -> bool:
        """Tell whether two axes of one length may have channels at other places for other inputs.

        Args:
            one: an axis.
            other: what it meets.
            are_as_long: whether they must be as long as each other for any inputs.
        """
        lengths = {self.sources.shape(node).sizes[dim] for node, dim in (one, other)}
        orders = [self.of(node, dim) for node, dim in (one, other) if dim in self.mixed(node)]
        if len(lengths) > 1 or not orders or (len(orders) == 2 and orders[0] == orders[1] is not None):
            return False
        if not are_as_long:
            return len(orders) == 1 or None in orders or len(set(map(self._layout, orders))) > 1
        sides = {self.side(order) for order in orders}
        return len(sides) > 1 or "" in sides

    def _has_guards(self, node: fx.Node) -> bool:
        """Tell whether a call treats all places alike, or has guards of its own, as one of weights."""
        name = self.sources.name(node)
        if node.op == "call_module" and next(self.sources.module(node).parameters(), None) is not None:
            return not runs_own_code(node)
        if name in CUTS:
            return False
        if name in WEIGHTS and all(map(is_constant, self.sources.tensors(node)[1:])):
            return True
        if name in SPATIAL:  # one channel at a time, where none lies in space
            given = self.sources.shape(self.sources.tensors(node)[0])
            return max(given.varying, default=0) < len(given.sizes) - (int(name[-2]) if name.endswith("d") else 2)
        if name in IMAGES:
            return max(self.mixed(self.sources.tensors(node)[0]), default=-1) < self.sources.leading(node)
        return self.sources.keeps_places(node) or name in MOVES | SUMS or call_kind(node) in _GUARDED
