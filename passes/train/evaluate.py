"""Compute predictions and accuracy of a network on a loader."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from fxprune.errors import DataError
from fxprune.passes.distributed import ALONE, LocalBatch, Ranks, local_batches
from fxprune.pytorch.modules import precision_of

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Loader


T = TypeVar("T")
EMPTY = "there are no images to evaluate on: the loader gave no batch."


@dataclass(frozen=True)
class Accuracy:
    """The number of correctly classified images, out of how many."""

    correct: int
    count: int

    @property
    def top1(self) -> float:
        """Share of the images whose own class has the largest output: correct / count."""
        return self.correct / self.count

    @property
    def value(self) -> float:
        """The accuracy, as of any score."""
        return self.top1

    @property
    def short(self) -> str:
        """The accuracy alone, as text."""
        return f"{self.top1:.2%}"

    @property
    def numbers(self) -> Mapping[str, float]:
        """Return what the records of a training hold of it."""
        return {"top1": self.top1}

    def __str__(self) -> str:
        return f"{self.top1:.2%} ({self.correct} of {self.count})"


def evaluate(model: nn.Module, loader: Loader, device: str | torch.device = "cpu", *, ranks: Ranks = ALONE) -> Accuracy:
    """Measure the accuracy of a network in evaluation mode; its modes are restored.

    Several processes share the images, and each gets the accuracy on all of them.

    Args:
        model: maps [N, C, H, W] to [N, classes]; its parameters lie on ``device``.
        loader: batches of images and classes.
        device: where the network is.
        ranks: which process this is.

    Raises:
        DataError: the loader is empty.
    """
    right = _of_batches(
        model,
        local_batches(loader, ranks, every=False),
        device,
        lambda predicted, labels: ((predicted == labels).sum(), len(labels)),
    )
    here = [sum(int(correct) for correct, _ in right), sum(count for _, count in right)]
    correct, count = ranks.add(torch.tensor(here, device=device)).tolist()
    if not count:
        raise DataError(EMPTY)
    return Accuracy(correct=correct, count=count)


def predict(model: nn.Module, loader: Loader, device: str | torch.device = "cpu") -> Tensor:
    """Predict the class with the largest output for each image, in the order of the loader.

    Args:
        model: maps [N, C, H, W] to [N, classes]; its parameters lie on ``device``.
        loader: batches of images and classes, in a fixed order.
        device: where the network is.

    Returns:
        int64 [N] on the CPU.

    Raises:
        DataError: the loader is empty.
    """
    found = _of_batches(model, local_batches(loader, ALONE), device, lambda predicted, _: predicted)
    if not found:
        raise DataError(EMPTY)
    return torch.cat(found)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode; afterwards each has its former mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _of_batches(
    model: nn.Module, batches: Iterable[LocalBatch], device: str | torch.device, use: Callable[[Tensor, Tensor], T]
) -> list[T]:
    """List what comes of the predicted and the given classes of each batch.

    A generator that an error leaves in the middle would keep the mode on for its caller.
    """
    dtype = precision_of(model)
    with evaluating(model), torch.inference_mode():
        return [use(model(images.to(device, dtype)).argmax(1).cpu(), labels) for images, labels, _ in batches]
