"""The smallest network and data that the main job takes."""

from __future__ import annotations

import torch
from torch import nn

import fxprune
from fxprune.models_zoo.data.dataset import Data
from fxprune.models_zoo.data.tensor_loader import TensorLoader


class Tiny(nn.Module):
    """Two convolutions and a linear layer: groups `first.weight` (8) and `second.weight` (6)."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


def tiny_data(batches=3, size=8):
    torch.manual_seed(0)
    images, labels = torch.randn(8 * batches, 1, size, size), torch.arange(8 * batches) % 3
    train = TensorLoader(images, labels, 8, shuffle=True)
    return Data("noise", 3, 1, size, train, TensorLoader(images, labels, 8), (0.0,), (1.0,))


def images(count=48, size=8):
    """Random images for :class:`Tiny`."""
    return torch.randn(count, 1, size, size)


def planned():
    """A network and a plan that halves it."""
    torch.manual_seed(1)
    model = Tiny().eval()
    plan = fxprune.plan(fxprune.couple(model, torch.empty(2, 1, 8, 8, device="meta")), keep=0.5)
    return model, plan
