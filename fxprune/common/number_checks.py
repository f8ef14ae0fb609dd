"""Check that weights are finite, and variances not negative: a NaN has no nearest cluster."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fxprune.errors import ModelError


def check_numbers(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise ModelError for the first tensor on the meta device, which has no numbers."""
    for name, tensor in tensors:
        if tensor.is_meta:
            raise ModelError(
                f"`{name}` is on the meta device, where it has no numbers to compare, merge or write: load weights, or "
                'draw some by `model.to_empty(device="cpu")` and the layers\' `reset_parameters`. `couple`, `prove` '
                'and a plan with method="even" need none.'
            )


def check_finite(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise ModelError for the first NaN, infinity, or running variance below 0."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.itemsize == 1:  # PyTorch asks none of 8 bits
            tensor = tensor.float()
        if tensor.is_meta:
            continue
        if name.rpartition(".")[2] == "running_var" and (below := int((tensor < 0).sum())):
            raise ModelError(
                f"`{name}` has {below} of {tensor.numel()} variances below 0, whose root is a NaN, and the mean of a "
                "cluster would hide it. Train again, or load other weights."
            )
        if bool(tensor.isfinite().all()):
            continue
        wrong, nans = int((~tensor.isfinite()).sum()), int(tensor.isnan().sum())
        raise ModelError(
            f"`{name}` has {wrong} of {tensor.numel()} numbers that are not finite ({nans} NaN, {wrong - nans} "
            "infinite): clusters and their means would be none either. Train again, or load other weights."
        )
