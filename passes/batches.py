"""Example inputs at any batch size: axis 0 of every input that is not a scalar counts the samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxprune.errors import OptionError


def as_inputs(example_inputs: Any) -> tuple[Tensor, ...]:
    """One tensor stands for a tuple of one; all of them hold the same number of samples.

    Args:
        example_inputs: a tensor [N, ...], or a tuple or list of them; scalars are inputs without a batch.

    Raises:
        OptionError: something else than tensors, or numbers of samples that differ.
    """
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    odd = [type(x).__name__ for x in inputs if not torch.is_tensor(x)]
    if odd or not inputs:
        found = ", ".join(odd) or "an empty tuple"
        raise OptionError(f"example inputs must be tensors, not {found}: give a tensor or a tuple of tensors.")
    if len({len(x) for x in inputs if x.dim()}) != 1 or batch_of(inputs) == 0:
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        raise OptionError(
            f"the example inputs have shapes {shapes}: axis 0 must be the batch, at least 1 and equal in all of them."
        )
    return inputs


def batch_of(inputs: tuple[Tensor, ...]) -> int:
    """Number of samples in a tuple of inputs."""
    return next(len(x) for x in inputs if x.dim())


def repeat_to(inputs: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    """Sample i of the result is sample i mod N of the given ones."""
    return tuple(x[torch.arange(batch, device=x.device) % len(x)] if x.dim() else x for x in inputs)


def random_batch(inputs: tuple[Tensor, ...], batch: int, *, seed: int) -> tuple[Tensor, ...]:
    """New inputs on the CPU with the shapes and kinds of the given ones: floats are normal, others resampled.

    Args:
        inputs: tensors [N, ...]; only the values of integers and booleans are looked at, so that indices stay in
            range (zeros, where the tensor is on the meta device). Scalars that have a value keep it.
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

    return tuple(map(draw, inputs))
