"""Names of the values in a function, as a person would choose them.

A value takes over the name of the value that it is made of, if nothing reads that one later: ``x = self.conv(x)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, count
from typing import Any

from torch import Tensor, fx, nn

from .code import Code, text
from .regions import Region
from .values import UnwritableError

_TENSORS = ("x", "y", "z", "u", "v", "w", "a", "b", "c", "d", "e")
_NUMBERS = ("n", "m", "k", "l", "p", "q")


class Scope:
    """The names in the function of one block, and where each is read.

    Args:
        region: the block; its items are nodes and the blocks that it calls.
        modules: of the graph, by name.
        values: what each node returns on the meta device.
        same: node -> the node whose value it hands on.
        result: what the network returns, for its outermost block.
        arguments: names of the inputs, for the outermost block.
    """

    def __init__(
        self,
        region: Region,
        modules: Mapping[str, nn.Module],
        values: Mapping[fx.Node, Any],
        same: Mapping[fx.Node, fx.Node],
        result: Any = None,
        arguments: Mapping[fx.Node, str] | None = None,
    ) -> None:
        self.region, self.modules, self.values, self.same = region, modules, values, same
        self.result, self.given = result, arguments
        self.items = region.items
        self.names: dict[fx.Node, str] = {}
        self.end = len(self.items)
        self.reads: dict[fx.Node, list[int]] = {}
        for position, item in enumerate(self.items):
            for node in self._inputs(item):
                self.reads.setdefault(node, []).append(position)
        for node in self._returned():
            self.reads.setdefault(node, []).append(self.end)
        self.nested: dict[fx.Node, Code] = {}
        self.roles: set[Any] = set()  # queries, keys and values keep their names for themselves

    def _inputs(self, item: fx.Node | Region) -> list[fx.Node]:
        nodes = item.inputs if isinstance(item, Region) else item.all_input_nodes
        return list(dict.fromkeys(self.same.get(n, n) for n in nodes))

    def _returned(self) -> list[fx.Node]:
        if self.result is None:
            return self.region.outputs
        found: list[fx.Node] = []
        fx.node.map_arg(self.result, lambda n: found.append(self.same.get(n, n)))
        return list(dict.fromkeys(found))

    def _source(self, value: Any) -> Any:
        return self.same.get(value, value) if isinstance(value, fx.Node) else value

    def _name(self, node: fx.Node) -> Code:
        node = self.same.get(node, node)
        if node in self.nested:
            return self.nested[node]
        if node not in self.names:
            raise UnwritableError(f"the value `{node}`, which is not at hand there")
        return text(self.names[node])

    def _last(self, node: fx.Node) -> int:
        return max(self.reads.get(node, [-1]))

    def _alive(self, position: int) -> set[str]:
        """Return the names that are read at a position or later, or must stay what they are."""
        names = self.names.items()
        return {name for node, name in names if self._last(node) > position or self._outlives(node, position)}

    def _outlives(self, node: fx.Node, position: int) -> bool:
        """Tell whether an expression that is read later contains a value."""
        return any(self._last(other) > position and self._contains(other, node) for other in self.nested)

    def _contains(self, outer: fx.Node, node: fx.Node) -> bool:
        given = [self.same.get(n, n) for n in outer.all_input_nodes]
        return node in given or any(n in self.nested and self._contains(n, node) for n in given)

    def _take_over(self, node: fx.Node, position: int, taken: list[str]) -> str:
        if not isinstance(self.values.get(node), Tensor):
            return self._fresh(node, position, taken)
        alive = self._alive(position)
        item = self.items[position]
        own = [
            self.names[n]
            for n in self._read_by(item)
            if n in self.names and n not in self.roles and isinstance(self.values.get(n), Tensor)
        ]
        free = [name for name in own if name not in alive and name not in taken and name in _TENSORS]
        return min(free, key=_TENSORS.index) if free else self._fresh(node, position, taken)

    def _read_by(self, item: fx.Node | Region) -> Iterator[fx.Node]:
        for node in self._inputs(item):
            yield node
            if node in self.nested:
                yield from self._read_by(node)

    def _fresh(self, node: fx.Node, position: int, taken: list[str] | tuple[str, ...] = ()) -> str:
        """Choose a name that is not in use."""
        value = self.values.get(node)
        used = self._alive(position) | set(taken)
        pool: tuple[str, ...] = _TENSORS
        if type(value) in (int, bool, float):
            pool = _NUMBERS
            if node.op == "call_method" and node.target == "size" and node.args[1:] == (0,):
                pool = ("batch", *_NUMBERS)
        elif not isinstance(value, Tensor):
            pool = ("parts", "others")
        return next(name for name in chain(pool, (f"{pool[0]}{n}" for n in count(1))) if name not in used)
