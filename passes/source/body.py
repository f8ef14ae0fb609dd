"""Write what a block does as statements."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from fxprune.arguments.guards import guard_dtype, guard_tensor
from fxprune.capture import EvalOnly, ModeSwitch
from fxprune.pytorch.modes import enter, leave
from fxprune.pytorch.torch_private import assert_call

from .code import CHOICE, COMPARISON, NOT, Code, call, join, text
from .expressions import accessor, argument, expression, item_of
from .functions import AUGMENTED
from .nesting import GUARDS, Nesting
from .regions import Region, placed
from .values import UnwritableError, constant, quoted


@dataclass
class Line:
    """A line of a function: ``before`` + code + ``after``, indented."""

    code: Code
    before: str = ""
    after: str = ""
    depth: int = 0


@dataclass
class Body:
    """The function of a block."""

    arguments: list[tuple[str, fx.Node]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    returns: list[fx.Node] = field(default_factory=list)


class UnwritableNodeError(Exception):
    """A node that cannot be written."""

    def __init__(self, node: fx.Node, why: str) -> None:
        super().__init__(why)
        self.node, self.why = node, why


class Writer(Nesting):
    """Writes the function of one block.

    Arguments are those of :class:`~fxprune.passes.source.scope.Scope`.
    """

    def write(self) -> Body:
        """Return the function."""
        self.depth = 0
        self.modes: list[fx.Node] = []
        self.body = Body(returns=self.region.outputs)
        for node in self.region.inputs:
            own = self.given[node] if self.given is not None else self._fresh(node, -1, list(self.names.values()))
            self.names[node] = own
            self.body.arguments.append((own, node))
        for position, item in enumerate(self.items):
            if isinstance(item, fx.Node) and item in self.names:
                continue  # unpacked with its tuple
            try:
                if isinstance(item, Region):
                    self._block(position, item)
                    continue
                self._node(position, item)
            except UnwritableError as error:
                node = next(item.nodes()) if isinstance(item, Region) else item
                raise UnwritableNodeError(node, str(error)) from error
        if self.region.outputs or self.result is not None:
            self._add(self._return(), before="return ")
        return self.body

    def _return(self) -> Code:
        if self.result is not None:
            return argument(self.result, self._name)
        outputs = self.region.outputs
        return self._name(outputs[0]) if len(outputs) == 1 else argument(tuple(outputs), self._name)

    def _block(self, position: int, item: Region) -> None:
        code = self._called(item)
        if len(item.outputs) == 1 and self._nests(position, item.outputs[0], code):
            self.nested[item.outputs[0]] = code
        else:
            self._statement(position, item.outputs, code)

    def _node(self, position: int, node: fx.Node) -> None:
        if node.op == "get_attr":
            self.nested[node] = accessor(self._below(str(node.target)))
            return
        if node.op == "call_module" and isinstance(self.modules[str(node.target)], EvalOnly):
            why = quoted(_short(f"eval mode only: {self.modules[str(node.target)].why}"))
            self._raise_if(text("self.training"), "RuntimeError", why)
            return
        if node.target is enter:
            self._enter(position, node)
            return
        if node.target is leave:
            if not self.modes or self.modes.pop() is not node.args[0]:
                raise UnwritableError("a mode that overlaps with another one")
            self.depth -= 1
            return
        if node.target in GUARDS:
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
            self._add(argument(node.args[2], self._name), before=f"{item_of(node.args, self._name).line()} = ")
            return
        code = (
            expression(node, self._name, self.modules)
            if node.op != "call_module" or isinstance(self.modules[str(node.target)], ModeSwitch)
            else self._layer(node)
        )
        if self._nests(position, node, code):
            self.nested[node] = code
            return
        self._statement(position, [node], code)

    def _enter(self, position: int, node: fx.Node) -> None:
        """Begin a ``with`` block."""
        name, *args = node.args
        named = {k: argument(v, self._name) for k, v in node.kwargs.items()}
        self._add(call(f"torch.{name}", [argument(a, self._name) for a in args], named), before="with ", after=":")
        self.modes.append(node)
        self.depth += 1
        if position + 1 < self.end and getattr(self.items[position + 1], "target", None) is leave:
            self._add(text("pass"))

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
                join(found, " not in ", argument(tuple(allowed), self._name), level=COMPARISON), "ValueError", message
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

    def _statement(self, position: int, made: list[fx.Node], code: Code) -> None:
        alone = made[0] if len(made) == 1 else None
        if alone is not None and self._unpacked(position, alone, code):
            return
        used = [n for n in made if self.reads.get(n)]
        if not used:
            self._add(code)
            return
        is_last = position + 1 == self.end
        if alone is not None and is_last and [alone] == self._returned() and self.result in (None, alone):
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
                and self._last(owner) == position
                and owner not in self.region.inputs
            ):
                self.names[alone] = name
                self._add(argument(alone.args[1], self._name), before=f"{name} {AUGMENTED[alone.target]} ")
                return
        names: list[str] = []
        for node in made:
            self.names[node] = self._take_over(node, position, names) if self.reads.get(node) else "_"
            names.append(self.names[node])
        self._add(code, before=f"{', '.join(names)} = ")

    def _unpacked(self, position: int, node: fx.Node, code: Code) -> bool:
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
            free = three and three[index] not in self._alive(position)
            name = three[index] if free else self._fresh(member, position, taken)  # type: ignore[arg-type]
            self.names[member] = name  # type: ignore[index]
            self.roles |= {member} if free else set()  # type: ignore[arg-type]
            taken.append(name)
        self._add(code, before=f"{', '.join(taken)} = ")
        return True

    def _add(self, code: Code, before: str = "", after: str = "") -> None:
        self.body.lines.append(Line(code, before, after, self.depth))


def _short(words: str) -> str:
    """Keep a message printable and within its line."""
    words = re.sub(r" ?\(Proxy\(\w+\)\)", "", words)  # torch.fx writes a name of its own for a number
    words = "".join(letter if letter.isprintable() and letter not in '"\\' else "'" for letter in words)
    return words if len(words) <= 88 else f"{words[:85]}..."
