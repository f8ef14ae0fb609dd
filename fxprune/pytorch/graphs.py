"""Run graphs of torch.fx without numbers, and ask them what torch.fx does not tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from fxprune.pytorch.meta import filled
from fxprune.pytorch.modules import unlike_meta


class OnMeta(fx.Interpreter):
    """Runs a graph on the meta device as if it were on another one."""

    def __init__(
        self, root: torch.nn.Module, graph: fx.Graph, device: torch.device, *, garbage_collect_values: bool = True
    ) -> None:
        super().__init__(root, garbage_collect_values=garbage_collect_values, graph=graph)
        self.extra_traceback, self.device = False, device

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; a question for the device gets the graph's own."""
        known = unlike_meta(n, self.device)
        return super().run_node(n) if known is None else known[0]

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
        """Return the arguments of a node; any place stands for one that a tensor names."""
        return filled(n, self.env.__getitem__)


def with_ancestors(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Return nodes of a graph and all that they depend on, in the order of the graph."""
    stack = list(nodes)
    found, graph = set(stack), stack[0].graph
    while stack:
        new = [node for node in stack.pop().all_input_nodes if node not in found]
        found.update(new)
        stack += new
    return [node for node in graph.nodes if node in found]


def arguments_of(node: fx.Node) -> list[Any]:
    """List the arguments of a node, those inside lists and dicts by themselves."""
    leaves: list[Any] = []
    fx.node.map_aggregate((node.args, node.kwargs), leaves.append)
    return leaves
