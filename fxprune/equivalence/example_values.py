"""Numbers to run a network on: those of its example in some order, and weights that would hide a mistake varied."""

from __future__ import annotations

import torch
from torch import Tensor

from fxprune.common.inputs import Inputs, tensors_of
from fxprune.common.torch_private import pytree


def values_of(inputs: Inputs, device: torch.device) -> Inputs:
    """The example on the model's device, with numbers."""
    generator = torch.Generator().manual_seed(0)

    def filled(x: Tensor) -> Tensor:
        if not x.is_meta:
            return x.detach().to(device)
        if x.is_floating_point():
            return torch.randn(x.shape, generator=generator).to(device, x.dtype)
        return torch.ones_like(x, device=device) if x.dtype == torch.bool else torch.zeros_like(x, device=device)

    given: Inputs = pytree.tree_map_only(Tensor, filled, inputs)
    return given


def shuffled(x: Tensor) -> Tensor:
    """The same numbers in another order; others where they are all one number. Whole numbers may be positions."""
    generator = torch.Generator().manual_seed(1)
    if not x.is_floating_point() or not x.numel():
        return x
    if is_uniform(x) or x.numel() == 1:
        return x + torch.rand(x.shape, generator=generator).to(x.device, x.dtype)
    return x.flatten()[torch.randperm(x.numel(), generator=generator).to(x.device)].view_as(x)


def doubled(inputs: Inputs) -> Inputs:
    """Twice as many samples, where axis 0 of all tensors has one length."""
    tensors = tensors_of(inputs)
    samples = {x.shape[0] if x.dim() else 0 for x in tensors}
    if len(samples) != 1:
        return inputs
    twice: Inputs = pytree.tree_map_only(Tensor, lambda x: torch.cat([x, shuffled(x)]), inputs)
    return twice


def is_uniform(x: Tensor) -> bool:
    """Whether a tensor of floating-point numbers holds one number only."""
    x = x.detach()
    return x.is_floating_point() and x.numel() > 0 and not x.is_sparse and bool((x == x.flatten()[0]).all())


def varied(x: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor with up to 0.1 added to each number: weights of zero would hide all that they multiply."""
    return x + 0.1 * torch.rand(x.shape, generator=generator).to(x.device, x.dtype)
