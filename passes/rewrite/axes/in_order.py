"""Find a fact of each axis of a graph once, those of earlier nodes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import fx

from fxprune.coupling import Coupling
from fxprune.node_facts import Shape

T = TypeVar("T")


class InOrder(Generic[T]):
    """A fact of each axis, found when it is asked for.

    What a fact rests on is found before it: in a deep graph, one call inside of the other would exceed Python's stack.
    """

    def __init__(self, coupling: Coupling, find: Callable[[fx.Node, int], T]) -> None:
        """Take what finds the fact of an axis, and may ask for those of earlier nodes."""
        self._nodes, self._find = coupling.nodes, find
        self._known: dict[tuple[fx.Node, int], T] = {}
        self._waiting = list(reversed(coupling.graph_module.graph.nodes))
        self._places = {node: -place for place, node in enumerate(self._waiting)}

    def __call__(self, node: fx.Node, dim: int) -> T:
        """Return the fact of an axis of a node."""
        while self._waiting and (node, dim) not in self._known and self._is_in_front(self._waiting[-1], node):
            earlier = self._waiting.pop()
            value = self._nodes[earlier.name].value
            for each in range(len(value.sizes)) if isinstance(value, Shape) else ():
                self(earlier, each)
        if (node, dim) not in self._known:
            self._known[node, dim] = self._find(node, dim)
        return self._known[node, dim]

    def known(self, node: fx.Node, dim: int) -> T | None:
        """Return the fact of an axis, if it has been found."""
        return self._known.get((node, dim))

    def _is_in_front(self, one: fx.Node, other: fx.Node) -> bool:
        return self._places[one] < self._places[other]
