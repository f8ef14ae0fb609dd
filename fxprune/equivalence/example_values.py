"""Make numbers to run a network on, and vary weights that would hide an error."""

from __future__ import annotations

import torch
from torch import Tensor

from fxprune.arguments.inputs import Inputs, tensors_of
from fxprune.pytorch.torch_private import pytree

# Larger tensors are moved as a whole by this odd number of places, since a shuffle takes longer than a call.
_MOST_SHUFFLED = (1 << 18) - 1


def values_of(inputs: Inputs, device: torch.device) -> Inputs:
    """Copy the example to the model's device, with random numbers for meta tensors."""
    generator = torch.Generator().manual_seed(0)

    def filled(x: Tensor) -> Tensor:
        if not x.is_meta:
            return x.detach().to(device)
        if x.is_floating_point():
            return torch.randn(x.shape, generator=generator).to(device, x.dtype)
        return torch.ones_like(x, device=device) if x.dtype == torch.bool else torch.zeros_like(x, device=device)

    given: Inputs = pytree.tree_map_only(Tensor, filled, inputs)
    return given


def changed(x: Tensor) -> Tensor:
    """Shuffle the numbers of a tensor and make them smaller; change equal ones.

    So their sum and their largest one are others, too, and none leaves the range that the network may take. Integers
    stay as they are, since they may be indices.
    """
    generator = torch.Generator().manual_seed(1)
    if not x.is_floating_point() or not x.numel():
        return x
    if is_uniform(x) or x.numel() == 1:
        return x + torch.rand(x.shape, generator=generator).to(x.device, x.dtype)
    flat = x.flatten()
    if len(flat) > _MOST_SHUFFLED:
        return 0.875 * flat.roll(_MOST_SHUFFLED).view_as(x)
    order = torch.randperm(len(flat), generator=generator).to(x.device)
    return 0.875 * flat[order].view_as(x)


def doubled(inputs: Inputs) -> Inputs:
    """Double the samples, if axis 0 of all tensors has one length."""
    tensors = tensors_of(inputs)
    samples = {x.shape[0] if x.dim() else 0 for x in tensors}
    if len(samples) != 1:
        return inputs
    twice: Inputs = pytree.tree_map_only(Tensor, lambda x: torch.cat([x, changed(x)]), inputs)
    return twice


def doubled_on_meta(inputs: Inputs) -> Inputs:
    """Double the samples, if all tensors have any, without numbers."""
    if not all(x.dim() for x in tensors_of(inputs)):
        return inputs
    twice: Inputs = pytree.tree_map_only(
        Tensor, lambda x: torch.empty((2 * x.shape[0], *x.shape[1:]), dtype=x.dtype, device="meta"), inputs
    )
    return twice


def is_uniform(x: Tensor) -> bool:
    """Tell whether all numbers of a floating-point tensor are equal."""
    x = x.detach()
    if not x.is_floating_point() or not x.numel() or x.is_sparse:
        return False
    few = x.flatten()[:64].tolist()  # most tensors show it there
    return all(each == few[0] for each in few) and bool((x == few[0]).all())


def varied(x: Tensor, generator: torch.Generator) -> Tensor:
    """Add up to 0.1 to each number: weights of zero would hide all that they multiply."""
    return x + 0.1 * torch.rand(x.shape, generator=generator).to(x.device, x.dtype)
