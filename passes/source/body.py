"""Write what a block does as statements, with names as a person would choose them.

A value takes over the name of the value that it is made of, if nothing reads that one later: ``x = self.conv(x)``. An
operation that only one other reads is written inside of it where that is short.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.capture import EvalOnly, ModeSwitch
from fxprune.common.guards import guard_dtype, guard_equal, guard_tensor
from fxprune.common.modes import enter, leave
from fxprune.common.torch_private import assert_call

from .code import CALL, CHOICE, COMPARISON, NOT, Code, Group, call, join, text
from .expressions import accessor, argument, expression
from .functions import AUGMENTED, INFIX, PREFIX
from .regions import Region, placed
from .values import UnwritableError, constant, quoted

LONGEST_NESTED = 72
_TENSORS = ("x", "y", "z", "u", "v", "w", "a", "b", "c", "d", "e")
_NUMBERS = ("n", "m", "k", "l", "p", "q")
_GUARDS = (guard_equal, guard_dtype, guard_tensor)


@dataclass
class Line:
    """A line of a function: ``before`` + code + ``after``, indented."""

    code: Code
    before: str = ""
    after: str = ""
    depth: int = 0


@dataclass
class Body:
    """The function of a block.

    Attributes:
        arguments: name and value of each input.
        lines: of the function.
        returns: the values that it returns.
    """

    arguments: list[tuple[str, fx.Node]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    returns: list[fx.Node] = field(default_factory=list)


class UnwritableNodeError(Exception):
    """A node that cannot be written."""

    def __init__(self, node: fx.Node, why: str) -> None:
        super().__init__(why)
        self.node, self.why = node, why


class Writer:
    """Writes the function of one block.

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
        for place, item in enumerate(self.items):
            for node in self._inputs(item):
                self.reads.setdefault(node, []).append(place)
        for node in self._returned():
            self.reads.setdefault(node, []).append(self.end)
        self.made = {n: i for i, item in enumerate(self.items) for n in self._outputs(item)}
        self.nested: dict[fx.Node, Code] = {}
        self.depth = 0
        self.modes: list[fx.Node] = []
        self.roles: set[Any] = set()  # queries, keys and values keep their names for themselves
        self.body = Body(returns=region.outputs)

    def write(self) -> Body:
        """Return the function."""
        for node in self.region.inputs:
            own = self.given[node] if self.given is not None else self._fresh(node, -1, list(self.names.values()))
            self.names[node] = own
            self.body.arguments.append((own, node))
        for place, item in enumerate(self.items):
            if isinstance(item, fx.Node) and item in self.names:
                continue  # unpacked with its tuple
            try:
                if isinstance(item, Region):
                    self._block(place, item)
                    continue
                self._node(place, item)
            except UnwritableError as error:
                node = next(item.nodes()) if isinstance(item, Region) else item
                raise UnwritableNodeError(node, str(error)) from error
        if self.region.outputs or self.result is not None:
            self._add(self._return(), before="return ")
        return self.body

    # What an item reads and makes.

    def _inputs(self, item: fx.Node | Region) -> list[fx.Node]:
        nodes = item.inputs if isinstance(item, Region) else item.all_input_nodes
        return list(dict.fromkeys(self.same.get(n, n) for n in nodes))

    def _outputs(self, item: fx.Node | Region) -> list[fx.Node]:
        return item.outputs if isinstance(item, Region) else [item]

    def _returned(self) -> list[fx.Node]:
        if self.result is None:
            return self.region.outputs
        found: list[fx.Node] = []
        fx.node.map_arg(self.result, lambda n: found.append(self.same.get(n, n)))
        return list(dict.fromkeys(found))

    def _return(self) -> Code:
        if self.result is not None:
            return argument(self.result, self._name)
        outputs = [self._name(n) for n in self.region.outputs]
        return outputs[0] if len(outputs) == 1 else _tuple(outputs)

    # Statements.

    def _block(self, place: int, item: Region) -> None:
        code = self._called(item)
        if len(item.outputs) == 1 and self._nests(place, item.outputs[0], code):
            self.nested[item.outputs[0]] = code
        else:
            self._statement(place, item.outputs, code)

    def _node(self, place: int, node: fx.Node) -> None:
        if node.op == "get_attr":
            self.nested[node] = accessor(self._below(str(node.target)))
            return
        if node.op == "call_module" and isinstance(self.modules[str(node.target)], EvalOnly):
            why = quoted(_short(f"eval mode only: {self.modules[str(node.target)].why}"))
            self._raise_if(text("self.training"), "RuntimeError", why)
            return
        if node.target is enter:
            name, *args = node.args
            inside = call(
                f"torch.{name}",
                [argument(a, self._name) for a in args],
                {k: argument(v, self._name) for k, v in node.kwargs.items()},
            )
            self._add(inside, before="with ", after=":")
            self.modes.append(node)
            self.depth += 1
            if place + 1 < self.end and getattr(self.items[place + 1], "target", None) is leave:
                self._add(text("pass"))
            return
        if node.target is leave:
            if not self.modes or self.modes.pop() is not node.args[0]:
                raise UnwritableError("a mode that overlaps with another one")
            self.depth -= 1
            return
        if node.target in _GUARDS:
            self._guard(node)
            return
        if node.target is assert_call:
            condition, message = argument(node.args[0], self._name), argument(node.args[1], self._name)
            self._add(
                join(condition, ", ", message.line()[:1] and text(quoted(_short(str(node.args[1])))), level=CHOICE),
                before="assert ",
            )
            return
        if node.target is operator.setitem:
            spot = expression_of_item(node, self._name)
            self._add(argument(node.args[2], self._name), before=f"{spot.line()} = ")
            return
        code = (
            expression(node, self._name, self.modules)
            if node.op != "call_module" or isinstance(self.modules[str(node.target)], ModeSwitch)
            else self._layer(node)
        )
        if self._nests(place, node, code):
            self.nested[node] = code
            return
        self._statement(place, [node], code)

    def _layer(self, node: fx.Node) -> Code:
        return call(
            accessor(self._below(placed(str(node.target), self.modules))),
            [argument(a, self._name) for a in node.args],
            {k: argument(v, self._name) for k, v in node.kwargs.items()},
        )

    def _below(self, path: str) -> str:
        return path[len(self.region.path) + 1 :] if self.region.path else path

    def _called(self, item: Region) -> Code:
        return call(accessor(self._below(item.path)), [self._name(n) for n in item.inputs])

    def _guard(self, node: fx.Node) -> None:
        where = str(node.args[-1])
        found = argument(node.args[0], self._name)
        if node.target is guard_tensor:
            self._raise_if(
                join("not isinstance(", found, ", Tensor)", level=NOT),
                "ValueError",
                quoted(_short(f"{where} must be a tensor")),
            )
            return
        wanted: Any = node.args[1]
        message = quoted(_short(f"{where} must be {wanted}"))
        if node.target is guard_dtype:
            allowed = [wanted, torch.float64] if wanted.is_floating_point and wanted != torch.float64 else [wanted]
            self._raise_if(
                join(found, " not in ", _tuple([constant(d, "") for d in allowed]), level=COMPARISON),
                "ValueError",
                message,
            )
        elif wanted is True or wanted is False:
            self._raise_if(join("not ", found.inside(NOT), level=NOT) if wanted else found, "ValueError", message)
        else:
            self._raise_if(
                join(found.inside(COMPARISON + 1), " != ", constant(wanted, "size"), level=COMPARISON),
                "ValueError",
                message,
            )

    def _raise_if(self, condition: Code, error: str, message: str) -> None:
        self._add(condition, before="if ", after=":")
        self.depth += 1
        self._add(call(error, [text(message)]), before="raise ")
        self.depth -= 1

    def _statement(self, place: int, made: list[fx.Node], code: Code) -> None:
        alone = made[0] if len(made) == 1 else None
        if alone is not None and self._unpacked(place, alone, code):
            return
        used = [n for n in made if self.reads.get(n)]
        if not used:
            self._add(code)
            return
        if alone is not None and self._last(alone) == place + 1 == self.end and self.result is alone:
            self.nested[alone] = code
            return
        if alone is not None and place + 1 == self.end and [alone] == self._returned() and self.result in (None, alone):
            self.nested[alone] = code
            return
        if (
            alone is not None
            and isinstance(alone.target, str)
            and alone.op == "call_method"
            and alone.target in AUGMENTED
            and len(alone.args) == 2
            and not alone.kwargs
        ):
            owner: Any = self._source(alone.args[0])
            name = self.names.get(owner)
            if (
                name is not None
                and owner not in self.nested
                and self._last(owner) == place
                and owner not in self.region.inputs
            ):
                self.names[alone] = name
                self._add(argument(alone.args[1], self._name), before=f"{name} {AUGMENTED[alone.target]} ")
                return
        names: list[str] = []
        for node in made:
            self.names[node] = self._take_over(node, place, names) if self.reads.get(node) else "_"
            names.append(self.names[node])
        self._add(code, before=f"{', '.join(names)} = ")

    def _unpacked(self, place: int, node: fx.Node, code: Code) -> bool:
        """Write ``q, k, v = ...`` for a tuple whose members are all that is read of it."""
        value = self.values.get(node)
        readers = [self.items[p] for p in self.reads.get(node, []) if p < self.end]
        if (
            not isinstance(value, tuple | list)
            or isinstance(value, torch.Size)
            or not 1 < len(value) <= 8
            or not readers
        ):
            return False
        if self.end in self.reads[node] or not all(
            isinstance(r, fx.Node) and r.target is operator.getitem and type(r.args[1]) is int and r.args[1] >= 0
            for r in readers
        ):
            return False
        by_index = {r.args[1]: r for r in readers}  # type: ignore[union-attr]
        if len(by_index) < len(readers):
            return False
        taken: list[str] = []
        three = ("q", "k", "v") if len(value) == 3 and len(by_index) == 3 else ()
        for index in range(len(value)):
            if index not in by_index:
                taken.append("_")
                continue
            member = by_index[index]
            free = three and three[index] not in self._alive(place)
            name = three[index] if free else self._fresh(member, place, taken)  # type: ignore[arg-type]
            self.names[member] = name  # type: ignore[index]
            self.roles |= {member} if free else set()  # type: ignore[arg-type]
            self.made[member] = place  # type: ignore[index]
            taken.append(name)
        self._add(code, before=f"{', '.join(taken)} = ")
        return True

    # Names.

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

    def _alive(self, place: int) -> set[str]:
        """Return the names that are read at a place or later, or must stay what they are."""
        alive = {name for node, name in self.names.items() if self._last(node) > place or self._outlives(node, place)}
        return alive

    def _outlives(self, node: fx.Node, place: int) -> bool:
        """Tell whether an expression that is read later contains a value."""
        return any(self._last(other) > place and self._contains(other, node) for other in self.nested)

    def _contains(self, outer: fx.Node, node: fx.Node) -> bool:
        given = [self.same.get(n, n) for n in outer.all_input_nodes]
        return node in given or any(n in self.nested and self._contains(n, node) for n in given)

    def _take_over(self, node: fx.Node, place: int, taken: list[str]) -> str:
        if not isinstance(self.values.get(node), Tensor):
            return self._fresh(node, place, taken)
        alive = self._alive(place)
        item = self.items[place]
        own = [
            self.names[n]
            for n in self._read_by(item)
            if n in self.names and n not in self.roles and isinstance(self.values.get(n), Tensor)
        ]
        free = [name for name in own if name not in alive and name not in taken and name in _TENSORS]
        return min(free, key=_TENSORS.index) if free else self._fresh(node, place, taken)

    def _read_by(self, item: fx.Node | Region) -> Iterator[fx.Node]:
        for node in self._inputs(item):
            yield node
            if node in self.nested:
                yield from self._read_by(node)

    def _fresh(self, node: fx.Node, place: int, taken: list[str] | tuple[str, ...] = ()) -> str:
        """Choose a name that is not in use."""
        value = self.values.get(node)
        used = self._alive(place) | set(taken)
        pool: tuple[str, ...] = _TENSORS
        if type(value) in (int, bool, float):
            pool = _NUMBERS
            if node.op == "call_method" and node.target == "size" and node.args[1:] == (0,):
                pool = ("batch", *_NUMBERS)
        elif not isinstance(value, Tensor):
            pool = ("parts", "others")
        known = next((name for name in pool if name not in used), None)
        if known is not None:
            return known
        number = 1
        while f"{pool[0]}{number}" in used:
            number += 1
        return f"{pool[0]}{number}"

    # Expressions inside of expressions.

    def _nests(self, place: int, node: fx.Node, code: Code) -> bool:
        readers = self.reads.get(node, [])
        calls_block = isinstance(self.items[place], Region)
        if node.op == "call_module" and isinstance(self.modules[str(node.target)], ModeSwitch):
            return True
        if not readers:
            return False
        if (
            not calls_block
            and self._is_size(node)
            and self._stays(node, max(readers))
            and (len(readers) == 1 or node.op == "call_method")
        ):
            return True
        if len(readers) != 1 or len(code.line()) > LONGEST_NESTED:
            return False
        if readers[0] == self.end:
            return place + 1 == self.end and self.result in (None, node)
        reader = self.items[readers[0]]
        between = self.items[place + 1 : readers[0]]
        if not isinstance(reader, fx.Node) or not all(isinstance(n, fx.Node) and self._is_atom(n) for n in between):
            return False
        if sum(self._source(a) is node for a in _leaves(reader)) != 1:
            return False
        first = self._source(reader.args[0]) if reader.args else None
        chained = reader.op == "call_method" or reader.target in (operator.getitem, getattr)
        if chained and first is node:
            return (
                node.op != "call_module"
                and not calls_block
                and not _augments(reader)
                and node.target not in INFIX
                and not _augments(node)
            )
        infix = reader.target in INFIX or reader.target in PREFIX or _augments(reader)
        if reader.target in (*_GUARDS, assert_call):
            return True
        return infix and first is not node and not _augments(node)

    def _is_atom(self, node: fx.Node) -> bool:
        return node.op == "get_attr" or node in self.nested

    def _is_size(self, node: fx.Node) -> bool:
        """Tell whether a node only reads or computes numbers: it may be written anywhere."""
        if node.op == "call_method" and node.target == "size":
            return True
        if node.target is getattr:
            return True
        number = type(self.values.get(node)) in (int, bool, float)
        return (
            number
            and node.op == "call_function"
            and all(n in self.nested or n in self.names for n in self._inputs(node))
        )

    def _stays(self, node: fx.Node, until: int) -> bool:
        """Tell whether the names in a node's expression still mean the same at a later place."""
        for given in self._inputs(node):
            if given in self.nested:
                if not self._stays(given, until) and given.op != "get_attr":
                    return False
            elif (real := [p for p in self.reads[given] if not self._reads_size(p)]) and max(real) < until:
                return False
        return True

    def _reads_size(self, place: int) -> bool:
        item = self.items[place] if place < self.end else None
        return isinstance(item, fx.Node) and self._is_size(item)

    def _add(self, code: Code, before: str = "", after: str = "") -> None:
        self.body.lines.append(Line(code, before, after, self.depth))


def expression_of_item(node: fx.Node, names: Any) -> Code:
    """Write ``a[index]`` of an assignment to it."""
    from .expressions import _index

    return join(argument(node.args[0], names).inside(CALL), "[", _index(node.args[1], names), "]", level=CALL)


def _augments(node: fx.Node) -> bool:
    return node.op == "call_method" and str(node.target).endswith("_")


def _leaves(node: fx.Node) -> list[Any]:
    leaves: list[Any] = []
    fx.node.map_aggregate((node.args, node.kwargs), leaves.append)
    return leaves


def _tuple(items: list[Code]) -> Code:
    return join(Group("(", tuple(items), ",)" if len(items) == 1 else ")"))


def _short(words: str) -> str:
    """Keep a message printable and within its line."""
    words = re.sub(r" ?\(Proxy\(\w+\)\)", "", words)  # torch.fx writes a name of its own for a number
    words = "".join(letter if letter.isprintable() and letter not in '"\\' else "'" for letter in words)
    return words if len(words) <= 88 else f"{words[:85]}..."
