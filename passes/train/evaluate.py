"""Predictions and accuracy of a network on a loader."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fxprune.errors import DataError

from .ranks import ALONE, Ranks
from .sharding import LocalBatch, local_batches

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Loader


_EMPTY = "there are no images to evaluate on: the loader gave no batch."


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


def evaluate(model: nn.Module, loader: Loader, device: str | torch.device = "cpu", *, ranks: Ranks = ALONE) -> Accuracy:
    """Accuracy of the network as it predicts, in evaluation mode; the model is left as it was.

    Several processes share the images, and each gets the accuracy on all of them.

    Args:
        model: maps [N, C, H, W] to [N, classes]; its parameters lie on ``device``.
        loader: batches of images and classes.
        device: where the network is.
        ranks: which process this is.

    Raises:
        DataError: the loader is empty.
    """
    right = [
        ((predicted == labels).sum(), len(labels))
        for predicted, labels in _batches(model, local_batches(loader, ranks, every=False), device)
    ]
    here = [sum(int(correct) for correct, _ in right), sum(count for _, count in right)]
    correct, count = ranks.add(torch.tensor(here, device=device)).tolist()
    if not count:
        raise DataError(_EMPTY)
    return Accuracy(correct=correct, count=count)


def predict(model: nn.Module, loader: Loader, device: str | torch.device = "cpu") -> Tensor:
    """Class with the largest output for each image, int64 [N] on the CPU, in the order of the loader.

    Args:
        model: maps [N, C, H, W] to [N, classes]; its parameters lie on ``device``.
        loader: batches of images and classes, in a fixed order.
        device: where the network is.

    Raises:
        DataError: the loader is empty.
    """
    found = [predicted for predicted, _ in _batches(model, local_batches(loader, ALONE), device)]
    if not found:
        raise DataError(_EMPTY)
    return torch.cat(found)


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


def _batches(
    model: nn.Module, batches: Iterable[LocalBatch], device: str | torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predicted and given classes of each batch."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    with evaluating(model), torch.inference_mode():
        for images, labels, _ in batches:
            yield model(images.to(device, dtype)).argmax(1).cpu(), labels
