"""Find the shape and type of what each node of a graph returns, without numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from fxprune.arguments.inputs import Inputs, as_meta, in_order, inputs_for
from fxprune.pytorch.graphs import OnMeta
from fxprune.pytorch.modules import MetaMode, device_of, to_meta


def meta_values(module: fx.GraphModule, inputs: Inputs) -> dict[fx.Node, Any]:
    """Run a graph on the meta device; return what each node returns."""
    interpreter = MetaInterpreter(to_meta(module), module.graph, device_of(module))
    with torch.no_grad(), MetaMode():  # type: ignore[no-untyped-call]
        interpreter.run(*in_order(module.graph, inputs_for(module, inputs)))
    return interpreter.env


class MetaInterpreter(OnMeta):
    """Runs a graph on the meta device, and keeps what each node returns."""

    def __init__(self, root: nn.Module, graph: fx.Graph, device: torch.device) -> None:
        super().__init__(root, graph, device, garbage_collect_values=False)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a layer; a recurrent one makes its first state where its input lies."""
        given: Any = as_meta(args), as_meta(kwargs)
        return super().call_module(target, *given)
