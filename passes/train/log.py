"""A training reports one record per epoch, and calls functions while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from fxprune.common.table import table

from .answers import Score
from .evaluate import Accuracy


@dataclass(frozen=True)
class Epoch:
    """The results of one pass over the data.

    Attributes:
        number: from 1.
        steps: number of steps from the first epoch to the end of this one.
        loss: mean over the steps of this epoch.
        accuracy: on the test images, after the epoch; of a task with a metric of its own: its score.
        lr: learning rate of its last step.
        images_per_second: while training.
    """

    number: int
    steps: int
    loss: float
    accuracy: Accuracy | Score
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
    """Functions that are called while a network is trained.

    Attributes:
        optimizer_hook: optimizer -> a context that stays open during training, such as ``fxprune.csgd``. Its
            ``state_dict()``, if it has one, becomes part of the checkpoints.
        on_epoch: called after each epoch, while the hook is still attached.
        on_skipped_step: called with the number of a step, from 0, that was skipped because a float16 gradient was not
            finite.
    """

    optimizer_hook: Callable[[Optimizer], AbstractContextManager[Any]] = lambda _: nullcontext()
    on_epoch: Callable[[Epoch], None] = lambda _: None
    on_skipped_step: Callable[[int], None] = lambda _: None
