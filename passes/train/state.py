"""Where a training stands, and the numbers of its network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .log import Epoch


@dataclass(eq=False)
class Progress:
    """Where a training stands.

    Attributes:
        epoch: the one under way, from 1.
        step: steps taken in it.
        loss: sum of their losses, on the device.
        images: that these steps have seen.
        seconds: that they took.
        log: the epochs that are over.
    """

    epoch: int
    step: int
    loss: Tensor
    images: int = 0
    seconds: float = 0.0
    log: list[Epoch] = field(default_factory=list)


def tensors_now(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those outside the state dict included, each once."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def digest(model: nn.Module) -> str:
    """Of every number of a network, by name."""
    numbers = hashlib.sha256()
    for name, tensor in tensors_now(model).items():
        numbers.update(name.encode())
        numbers.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return numbers.hexdigest()[:16]


@torch.no_grad()
def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give every parameter and buffer the value that it has there; where they lie, and how, does not change."""
    for name, tensor in tensors_now(model).items():
        tensor.copy_(tensors[name])
