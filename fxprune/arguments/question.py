"""Draw inputs like those of an example from a seed: a stored answer is one to these."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fxprune.pytorch.torch_private import pytree

from .inputs import Inputs, tensors_of

BATCH = 2


def question(inputs: Inputs, below: int, *, batch: int | None = BATCH) -> Inputs:
    """Draw the numbers; NumPy keeps this generator's sequence for ever.

    A batch has two samples, if the first axes of all tensors are equal, and so are batches; or those of the example, if
    ``batch`` is None. The first column of a mask is true, so that no row of it is empty.
    """
    source = np.random.RandomState(0)
    sizes = {x.shape[0] for x in tensors_of(inputs) if x.dim()}
    batches = batch is not None and len(sizes) == 1 and all(x.dim() != 1 for x in tensors_of(inputs))

    def draw(x: Tensor) -> Tensor:
        shape = (batch, *x.shape[1:]) if x.dim() and batches else tuple(x.shape)
        if x.is_floating_point() or x.is_complex():
            return torch.as_tensor(source.standard_normal(shape)).to(x.dtype)
        drawn = torch.as_tensor(source.randint(0, 2 if x.dtype == torch.bool else below, shape)).to(x.dtype)
        if x.dtype == torch.bool and drawn.dim():
            drawn[..., 0] = True
        return drawn

    drawn: Inputs = pytree.tree_map_only(Tensor, draw, inputs)
    return drawn


def with_integers(example: Inputs, below: int) -> Inputs:
    """Return an example whose integers have values, if it has any."""
    if all(x.is_floating_point() or x.is_complex() for x in tensors_of(example)):
        return example
    return question(example, below, batch=None)
