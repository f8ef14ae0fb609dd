"""Choose the expressions that are written inside of another, where that is short."""

from __future__ import annotations

import operator

from torch import fx

from fxprune.arguments.guards import guard_dtype, guard_equal, guard_tensor
from fxprune.capture import ModeSwitch
from fxprune.pytorch.graphs import arguments_of
from fxprune.pytorch.torch_private import assert_call

from .code import Code
from .functions import INFIX, PREFIX
from .regions import Region
from .scope import Scope

LONGEST_NESTED = 72
GUARDS = (guard_equal, guard_dtype, guard_tensor)


class Nesting(Scope):
    """Tells whether an expression is written where it is read."""

    def _nests(self, position: int, node: fx.Node, code: Code) -> bool:
        readers = self.reads.get(node, [])
        calls_block = isinstance(self.items[position], Region)
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
            return position + 1 == self.end and self.result in (None, node)
        reader = self.items[readers[0]]
        between = self.items[position + 1 : readers[0]]
        if not isinstance(reader, fx.Node) or not all(isinstance(n, fx.Node) and self._is_atom(n) for n in between):
            return False
        if sum(self._source(a) is node for a in arguments_of(reader)) != 1:
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
        if reader.target in (*GUARDS, assert_call):
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
        """Tell whether the names in a node's expression still mean the same at a later position."""
        for given in self._inputs(node):
            if given in self.nested:
                if not self._stays(given, until) and given.op != "get_attr":
                    return False
            elif (real := [p for p in self.reads[given] if not self._reads_size(p)]) and max(real) < until:
                return False
        return True

    def _reads_size(self, position: int) -> bool:
        item = self.items[position] if position < self.end else None
        return isinstance(item, fx.Node) and self._is_size(item)


def _augments(node: fx.Node) -> bool:
    return node.op == "call_method" and str(node.target).endswith("_")
