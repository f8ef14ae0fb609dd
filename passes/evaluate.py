"""Predictions and accuracy of a network on a loader."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fxprune.errors import DataError

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Loader


@dataclass(frozen=True)
class Accuracy:
    """How many of how many images were given their own class."""

    correct: int
    count: int

    @property
    def top1(self) -> float:
        """Share of the images whose class has the largest output, 0 to 1."""
        return self.correct / self.count

    def __str__(self) -> str:
        return f"{self.top1:.2%} ({self.correct} of {self.count})"


def evaluate(model: nn.Module, loader: Loader, device: str | torch.device = "cpu") -> Accuracy:
    """Accuracy of the network as it predicts, in evaluation mode; the model is left as it was.

    Args:
        model: maps [N, C, H, W] to [N, classes]; its parameters lie on ``device``.
        loader: batches of images and classes.
        device: where the network is.

    Raises:
        DataError: the loader is empty.
    """
    predicted, labels = _run(model, loader, device)
    return Accuracy(correct=int((predicted == labels).sum()), count=len(labels))


def predict(model: nn.Module, loader: Loader, device: str | torch.device = "cpu") -> Tensor:
    """Class with the largest output for each image, int64 [N] on the CPU, in the order of the loader.

    Args:
        model: maps [N, C, H, W] to [N, classes]; its parameters lie on ``device``.
        loader: batches of images and classes, in a fixed order.
        device: where the network is.

    Raises:
        DataError: the loader is empty.
    """
    return _run(model, loader, device)[0]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, every module is in evaluation mode; afterwards each is in the mode in which it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _run(model: nn.Module, loader: Loader, device: str | torch.device) -> tuple[Tensor, Tensor]:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    batches = []
    with evaluating(model), torch.inference_mode():
        for images, labels in loader:
            batches.append((model(images.to(device, dtype)).argmax(1).cpu(), labels))
    if not batches:
        raise DataError("there are no images to evaluate on: the loader gave no batch.")
    predicted, classes = zip(*batches, strict=True)
    return torch.cat(predicted), torch.cat(classes)
