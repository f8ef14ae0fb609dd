"""The captured graph with the tensors of a model: what computes what the model computes, layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from fxprune.common.modules import map_tensors
from fxprune.coupling import Coupling

from .snap import tensors_of


def captured_with(coupling: Coupling, model: nn.Module) -> fx.GraphModule:
    """Captured graph of a coupling that shares a model's tensors; weights that the model computes are stored in it.

    Args:
        coupling: the analysis.
        model: the analysed network, or another instance of it.
    """
    tensors = tensors_of(model)
    tensors |= {name: _computed(function, tensors) for name, function in coupling.functions.items()}
    # Constants that tracing made are no tensors of the model.
    module = map_tensors(coupling.graph_module, lambda name, tensor: tensors.get(name, tensor).detach())
    assert isinstance(module, fx.GraphModule)
    return module


@torch.no_grad()
def _computed(function: fx.GraphModule, tensors: dict[str, Tensor]) -> Tensor:
    weight = map_tensors(function, lambda name, tensor: tensors.get(name, tensor).detach())()
    assert isinstance(weight, Tensor)
    return weight
