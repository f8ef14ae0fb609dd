"""Make example inputs at any batch size; axis 0 of every non-scalar tensor is the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxprune.arguments.inputs import Inputs, batch_of, tensors_of
from fxprune.arguments.inputs import as_inputs as structured
from fxprune.errors import OptionError
from fxprune.pytorch.torch_private import pytree


def batched_inputs(example_inputs: Any) -> Inputs:
    """Read arguments in order or by name; all their tensors must have the same batch size.

    Args:
        example_inputs: a tensor [N, ...], a tuple or list of arguments, or a dict of arguments by name. Arguments are
            tensors, nests of them, or constants; scalars are inputs without a batch.

    Raises:
        OptionError: no tensor, something that cannot be an argument, or different batch sizes.
    """
    inputs = structured(example_inputs)
    tensors = tensors_of(inputs)
    if not any(x.dim() for x in tensors):
        found = ", ".join(type(x).__name__ for x in pytree.tree_leaves(inputs)) or "an empty tuple"
        raise OptionError(f"example inputs must hold a tensor whose axis 0 is the batch, not only {found}.")
    if len({len(x) for x in tensors if x.dim()}) != 1 or batch_of(inputs) == 0:
        shapes = ", ".join(str(list(x.shape)) for x in tensors)
        raise OptionError(
            f"the example inputs have shapes {shapes}: axis 0 must be the batch, at least 1 and equal in all of them."
        )
    return inputs


def repeat_to(inputs: Inputs, batch: int) -> Inputs:
    """result[i] = given[i mod N] for every sample i."""

    def repeat(x: Tensor) -> Tensor:
        return x[torch.arange(batch, device=x.device) % len(x)] if x.dim() else x

    repeated: Inputs = pytree.tree_map_only(Tensor, repeat, inputs)
    return repeated


def random_batch(inputs: Inputs, batch: int, *, seed: int) -> Inputs:
    """Draw inputs of the same shapes and types: floats are normal, others are resampled.

    The result is on the CPU.

    Args:
        inputs: tensors [N, ...] among them. Integers and booleans are drawn from the given values, so that indices
            stay in range; on the meta device they become zero. Constants and scalars that have a value keep it.
        batch: number of samples of the result.
        seed: seed of the draw.
    """
    source = torch.Generator().manual_seed(seed)

    def draw(x: Tensor) -> Tensor:
        shape = (batch, *x.shape[1:]) if x.dim() else ()
        if not x.dim() and not x.is_meta:
            return x.cpu()
        if x.is_floating_point() or x.is_complex():
            return torch.randn(shape, generator=source).to(x.dtype)
        if x.is_meta or x.numel() == 0:
            return torch.zeros(shape, dtype=x.dtype)
        return x.cpu().flatten()[torch.randint(x.numel(), shape, generator=source)]

    drawn: Inputs = pytree.tree_map_only(Tensor, draw, inputs)
    return drawn
