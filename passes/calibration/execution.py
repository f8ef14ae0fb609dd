"""Run a captured graph node by node, on several batches at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import fx

from fxprune.arguments.inputs import Inputs, in_order
from fxprune.pytorch.modes import enter, leave
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
        self._interpreter = fx.Interpreter(module, garbage_collect_values=False)
        self._interpreter.extra_traceback = False
        self._inputs = [list(in_order(module.graph, batch)) for batch in batches]
        self._values: list[dict[fx.Node, Any]] = [{} for _ in batches]
        self._open: dict[fx.Node, tuple[Any, Any]] = {}  # modes that were entered and not left
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
                values[node] = self._run(node)
        return values[node]

    def value(self, node: fx.Node, batch: int) -> Any:
        """Return a value that has been computed and not been freed."""
        return self._values[batch][node]

    def has(self, node: fx.Node, *, but: set[fx.Node]) -> bool:
        """Tell whether the operands of a node have values, apart from some."""
        wanted = [operand for operand in node.all_input_nodes if operand not in but]
        return all(operand in values for values in self._values for operand in wanted)

    def through(self, node: fx.Node, chain: Sequence[fx.Node], value: Any, batch: int) -> Any:
        """Compute nodes from another value of one node, and keep nothing."""
        read = {operand for each in chain for operand in each.all_input_nodes} - {node, *chain}
        # Copies: a call may write to its operands in place.
        others = {operand: _copied(self._values[batch][operand]) for operand in read}
        self._interpreter.env = {**others, node: value}
        before = dict(self._open)
        with torch.no_grad():
            for each in chain:
                value = self._interpreter.env[each] = self._run(each)
        self._open = before
        return value

    def _run(self, node: fx.Node) -> Any:
        """Run a node in the modes that are open there, and that end with it: executions take turns."""
        if node.target is enter:
            self._open[node] = self._interpreter.fetch_args_kwargs_from_env(node)
        elif node.target is leave:
            self._open.pop(node.all_input_nodes[0], None)
        else:
            with ExitStack() as modes:
                for (manager, *args), kwargs in self._open.values():
                    modes.enter_context(getattr(torch, manager)(*args, **kwargs))
                return self._interpreter.run_node(node)

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
