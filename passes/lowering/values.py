"""What each node of a graph returns, without numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from fxprune.arguments.inputs import Inputs, as_meta, in_order, inputs_for
from fxprune.pytorch.modules import MetaMode, device_of, to_meta, unlike_meta


def meta_values(module: fx.GraphModule, inputs: Inputs) -> dict[fx.Node, Any]:
    """Run a graph on the meta device; return what each node returns."""
    interpreter = MetaInterpreter(to_meta(module), module.graph, device_of(module))
    with torch.no_grad(), MetaMode():  # type: ignore[no-untyped-call]
        interpreter.run(*in_order(module.graph, inputs_for(module, inputs)))
    return interpreter.env


class MetaInterpreter(fx.Interpreter):
    """Runs a graph on the meta device as if it were on another one."""

    def __init__(self, root: nn.Module, graph: fx.Graph, device: torch.device) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False
        self.device = device

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a layer; a recurrent one makes its first state where its input lies."""
        given: Any = as_meta(args), as_meta(kwargs)
        return super().call_module(target, *given)

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; a question for the device gets the graph's own."""
        of_device = unlike_meta(n, self.device)
        return super().run_node(n) if of_device is None else of_device[0]
