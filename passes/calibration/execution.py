"""Run a captured graph node by node, on several batches at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx

from fxprune.arguments.inputs import Inputs, in_order
from fxprune.pytorch.modes import InModes
from fxprune.pytorch.torch_private import pytree

from .contractions import Observer


class Execution:
    """The state of a graph that runs on several batches: the values that later nodes still need.

    A node runs on all batches before the next one does, so that weights may change between nodes. Values are freed
    after their last use.

    Args:
        module: the graph, in the mode in which it is to run.
        batches: inputs of the graph, on its device.
    """

    def __init__(self, module: fx.GraphModule, batches: Sequence[Inputs]) -> None:
        self.module = module
        self.nodes = list(module.graph.nodes)
        self._interpreter = InModes(module, garbage_collect_values=False)
        self._inputs = [list(in_order(module.graph, batch)) for batch in batches]
        self._values: list[dict[fx.Node, Any]] = [{} for _ in batches]
        self._dying: dict[fx.Node, list[fx.Node]] = {}
        for node in {operand: user for user in self.nodes for operand in user.all_input_nodes}.items():
            self._dying.setdefault(node[1], []).append(node[0])

    def compute(self, node: fx.Node, batch: int, observer: Observer | None = None) -> Any:
        """Compute a node on one batch from the present values and weights, and keep the result."""
        values = self._values[batch]
        if node.op == "placeholder":
            values[node] = self._input(node, batch)
        else:
            self._interpreter.env = values
            with torch.no_grad(), observer or nullcontext():
                values[node] = self._interpreter.run_node(node)
        return values[node]

    def value(self, node: fx.Node, batch: int) -> Any:
        """Return a value that has been computed and not been freed."""
        return self._values[batch][node]

    def has(self, node: fx.Node, *, but: set[fx.Node]) -> bool:
        """Tell whether the operands of a node have values, apart from some."""
        wanted = {operand for operand in self._read(node) if operand not in but}
        return all(operand in values for values in self._values for operand in wanted)

    def through(self, node: fx.Node, chain: Sequence[fx.Node], value: Any, batch: int) -> Any:
        """Compute nodes from another value of one node, and keep nothing."""
        read = {operand for each in chain for operand in self._read(each)} - {node, *chain}
        # Copies: a call may write to its operands in place.
        others = {operand: _copied(self._values[batch][operand]) for operand in read}
        self._interpreter.env = {**others, node: value}
        with torch.no_grad():
            for each in chain:
                value = self._interpreter.env[each] = self._interpreter.run_node(each)
        return value

    def _read(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield what must be computed before a node: its operands, and the modes around it."""
        yield from (*node.all_input_nodes, *self._interpreter.around.get(node, ()))

    def free(self, node: fx.Node) -> None:
        """Free the values whose last use a node is."""
        for dying in self._dying.get(node, ()):
            for values in self._values:
                values.pop(dying, None)

    def _input(self, node: fx.Node, batch: int) -> Any:
        placeholders = [each for each in self.nodes if each.op == "placeholder"]
        index = placeholders.index(node)
        given = self._inputs[batch]
        return _copied(given[index]) if index < len(given) else node.args[0]


def _copied(value: Any) -> Any:
    return pytree.tree_map_only(torch.Tensor, torch.clone, value)
