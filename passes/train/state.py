"""The progress of a training, and the tensors of its network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fxprune.passes.store import distinct_tensors

from .log import Epoch


@dataclass(eq=False)
class Progress:
    """The progress of a training.

    Attributes:
        epoch: the present one, from 1.
        step: steps taken in it.
        loss: sum of their losses, on the device.
        images: number of images in these steps.
        seconds: duration of these steps.
        log: the finished epochs.
    """

    epoch: int
    step: int
    loss: Tensor
    images: int = 0
    seconds: float = 0.0
    log: list[Epoch] = field(default_factory=list)


def digest(model: nn.Module) -> str:
    """Hash the names and numbers of all tensors of a network."""
    numbers = hashlib.sha256()
    for name, tensor in distinct_tensors(model).items():
        numbers.update(name.encode())
        numbers.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return numbers.hexdigest()[:16]


@torch.no_grad()
def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy values into every parameter and buffer; device and memory layout stay."""
    for name, tensor in distinct_tensors(model).items():
        tensor.copy_(tensors[name])
