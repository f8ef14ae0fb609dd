"""Two classes of images that one linear layer tells apart."""

from __future__ import annotations

import math

import torch
from torch import nn

from fxprune.models_zoo.data.dataset import Data
from fxprune.models_zoo.data.tensor_loader import TensorLoader


def points(count: int = 64, batch_size: int = 16, bad: int | None = None) -> Data:
    """Two classes of 1x2x2 images that one linear layer tells apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    images = torch.randn(count, 1, 2, 2, generator=generator) + 4 * labels.view(-1, 1, 1, 1) - 2
    if bad is not None:
        images[bad:] = math.nan
    train = TensorLoader(images, labels, batch_size, shuffle=bad is None)
    return Data("points", 2, 1, 2, train, TensorLoader(images, labels, batch_size), (0.0,), (1.0,))


def linear(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(4, 2))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
