"""Randomise a network so that no weight is zero, equal or neutral by construction.

Only on such a network can a proof fail.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxprune.pytorch.modules import map_tensors
from fxprune.pytorch.torch_private import NormBase


def randomised(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Copy a model to the CPU with random parameters and random running statistics.

    Matrices and kernels [out, ...] are normal with variance 1 / fan-in, so that signals neither vanish nor explode.
    Vectors move by up to one half from their values (ones, zeros, a layer scale of 1e-6), running statistics by up to
    one. Other buffers keep their values; those on the meta device have none, and become zero.
    """
    draw = torch.Generator().manual_seed(seed)
    weights = {id(parameter) for parameter in model.parameters()}
    norms = [module for module in model.modules() if isinstance(module, NormBase)]
    statistics = {id(buffer) for norm in norms for buffer in norm.buffers() if buffer.is_floating_point()}

    def replace(name: str, tensor: Tensor) -> Tensor:
        start = torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.detach().cpu().clone()
        if id(tensor) in statistics:
            return start.abs() + torch.rand(tensor.shape, generator=draw).to(tensor.dtype)
        if id(tensor) not in weights or not tensor.is_floating_point():
            return start
        if tensor.dim() < 2:
            return start + (torch.rand(tensor.shape, generator=draw) - 0.5).to(tensor.dtype)
        # A token or a position embedding [1, ...] has no fan-in.
        fan_in = tensor.numel() / tensor.shape[0] if tensor.shape[0] > 1 else 4.0
        scale: float = fan_in**-0.5
        return torch.randn(tensor.shape, generator=draw).to(tensor.dtype) * scale

    return map_tensors(model, replace)
