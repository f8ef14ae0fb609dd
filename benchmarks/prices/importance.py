"""Estimate how much each channel counts, by the loss or by the size of its map."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.results.rivals import Importance, rows_of
from fxprune.coupling import Coupling


def taylor(coupling: Coupling, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Importance:
    """``E[(sum W dL/dW)^2]`` over the columns W that read a channel, the mean over batches.

    To first order, the sum is what the loss loses if these columns become zero, which is what a removal does.
    (Molchanov et al. 2019, "Importance estimation for neural network pruning", with the gate at the readers, so that it
    is the same for any tied layers.)
    """
    parameters = dict(model.named_parameters())
    names = list(dict.fromkeys(axis.parameter for group in coupling.groups.values() for axis in group.readers))
    found = {name: np.zeros(group.width) for name, group in coupling.groups.items()}
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
        products = {
            name: (parameters[name].detach() * gradient).double()
            for name, gradient in zip(names, gradients, strict=True)
        }
        for name, group in coupling.groups.items():
            sums = [rows_of(products[axis.parameter], axis).flatten(1).sum(1) for axis in group.readers]
            found[name] += sum(sums).square().numpy() if sums else 0.0  # type: ignore[union-attr]
    return found


@torch.no_grad()
def mean_absolute(coupling: Coupling, model: nn.Module, batches: Iterable[Tensor]) -> Importance:
    """Return E|x| of each channel as its readers get it, each reader scaled to a mean of 1."""
    sums: dict[str, Tensor] = {}

    def add(name: str, x: Tensor) -> None:
        power = x.double().abs().transpose(0, 1).flatten(1).mean(1)
        sums[name] = sums.get(name, torch.zeros_like(power)) + power

    readers = {axis.parameter for group in coupling.groups.values() for axis in group.readers}
    handles = [
        model.get_submodule(name.rpartition(".")[0]).register_forward_pre_hook(lambda _, x, name=name: add(name, x[0]))
        for name in readers
    ]
    try:
        for images in batches:
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, group in coupling.groups.items():
        found[name] = np.zeros(group.width)
        for axis in group.readers:
            values = sums[axis.parameter][torch.as_tensor(axis.positions)].mean(1).numpy()
            found[name] += values / (values.mean() or 1.0)
    return found
