"""A network with random weights in which nothing is zero, equal or neutral by construction, so that a proof can fail."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxprune.meta import copy_with


def randomised(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Copy of a model on the CPU with random parameters and random running statistics.

    Matrices and kernels [out, ...] are normal with the variance 1 / fan-in, so that signals neither vanish nor explode; vectors
    and running statistics are moved by up to one half from where they are (ones, zeros, a layer scale of 1e-6).
    Other buffers keep their values; on the meta device they have none, which is an error for those that matter.
    """
    draw = torch.Generator().manual_seed(seed)
    parameters = {id(parameter) for parameter in model.parameters()}

    def replace(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or (id(tensor) not in parameters and tensor.dim() != 1):
            return tensor.detach().cpu().clone()
        if id(tensor) in parameters and tensor.dim() > 1:
            # A token or a position embedding has no fan-in.
            fan_in = tensor.numel() / tensor.shape[0] if tensor.shape[0] > 1 else 4.0
            return (torch.randn(tensor.shape, generator=draw) * fan_in**-0.5).to(tensor.dtype)
        start = tensor.detach().cpu() if id(tensor) in parameters else tensor.detach().cpu().abs()
        shift = 0.5 if id(tensor) in parameters else 0.0
        return start + (torch.rand(tensor.shape, generator=draw) - shift).to(tensor.dtype)

    return copy_with(model, replace)
