"""What a training tells: one record per epoch, and calls while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from fxprune.common.table import table

from .evaluate import Accuracy


@dataclass(frozen=True)
class Epoch:
    """What one pass over the data came to.

    Attributes:
        number: from 1.
        steps: that were taken up to its end, from the first epoch on.
        loss: mean over the steps.
        accuracy: on the test images, after the epoch.
        lr: learning rate of its last step.
        images_per_second: while training.
    """

    number: int
    steps: int
    loss: float
    accuracy: Accuracy
    lr: float
    images_per_second: float


@dataclass(frozen=True)
class TrainLog:
    """One :class:`Epoch` per pass, in order; prints as a table."""

    epochs: tuple[Epoch, ...]

    def __str__(self) -> str:
        rows = [(e.number, e.loss, e.accuracy, e.lr, round(e.images_per_second)) for e in self.epochs]
        return table(("epoch", "loss", "test", "lr", "images/s"), rows, right="epoch loss lr images/s")


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Who is called while a network is trained, and what for.

    Attributes:
        optimizer_hook: given the optimizer, a context that stays open while training, such as ``fxprune.csgd``. What it
            tells by ``state_dict()`` becomes part of the checkpoints.
        on_epoch: called after each epoch, hook still attached.
        on_skipped_step: called with the number of the step, from 0, that was not taken, since float16 gave no finite
            gradient.
    """

    optimizer_hook: Callable[[Optimizer], AbstractContextManager[Any]] = lambda _: nullcontext()
    on_epoch: Callable[[Epoch], None] = lambda _: None
    on_skipped_step: Callable[[int], None] = lambda _: None
