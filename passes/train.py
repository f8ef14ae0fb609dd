"""Train a network: timm's optimizers under a cosine schedule, and whatever hook is to ride on the optimizer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

from fxprune.errors import DataError, OptionError
from fxprune.table import table

from .evaluate import Accuracy, evaluate
from .train_schedule import cosine
from .train_seed import seeded

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


@dataclass(frozen=True)
class Epoch:
    """What one pass over the data came to.

    Attributes:
        number: from 1.
        loss: mean over the steps.
        accuracy: on the test images, after the epoch.
        lr: learning rate of its last step.
        images_per_second: while training.
    """

    number: int
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


def train(
    model: nn.Module,
    data: Data,
    *,
    epochs: int,
    lr: float,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    warmup_epochs: float = 1.0,
    label_smoothing: float = 0.0,
    device: str | torch.device = "cpu",
    seed: int = 0,
    progress: bool | None = None,
    label: str = "train",
    on_epoch: Callable[[Epoch], None] | None = None,
    make_hook: Callable[[Optimizer], AbstractContextManager[Any]] | None = None,
) -> TrainLog:
    """Train the model where it stands; each epoch is decided by (seed, number of the epoch) and the weights alone.

    Args:
        model: maps [N, C, H, W] to [N, classes]; it is moved to ``device``, changed, and left in evaluation mode.
        data: images of that shape.
        epochs: passes over the training images.
        lr: largest learning rate of the schedule; :func:`fxprune.passes.train_schedule.learning_rates` gives all.
        optimizer: timm's name; ``sgd`` has Nesterov momentum.
        momentum: for the optimizers that have one.
        weight_decay: on everything but vectors (biases, normalisations).
        warmup_epochs: how long the rate rises, in epochs.
        label_smoothing: share of the target spread over all classes.
        device: where to train.
        seed: of the order of the images, their augmentation, dropout.
        progress: a bar on stderr; None: only if that is a terminal.
        label: what the bar is called.
        on_epoch: called after each epoch, hook still attached.
        make_hook: given the optimizer, a context that stays open while training, such as ``fxprune.csgd``.

    Raises:
        DataError: there is nothing to train on.
        OptionError: an unknown optimizer, a value out of range, or a loss that is no longer a number.
    """
    from tqdm import tqdm

    if not len(data.train):
        raise DataError(f"`{data.name}` has no batch to train on.")
    model.to(device)
    engine = _engine(model, optimizer, lr=lr, momentum=momentum, weight_decay=weight_decay)
    scheduler = cosine(engine, epochs=epochs, steps_per_epoch=len(data.train), warmup_epochs=warmup_epochs)
    log: list[Epoch] = []
    with (
        make_hook(engine) if make_hook else nullcontext(),
        tqdm(total=epochs * len(data.train), unit="step", disable=None if progress is None else not progress) as bar,
    ):
        for number in range(1, epochs + 1):
            bar.set_description(f"{label} {number}/{epochs}")
            with seeded(seed, number):
                loss, speed = _one_pass(model, data, engine, scheduler, number, label_smoothing, device, bar)
                accuracy = evaluate(model, data.test, device)
            log.append(Epoch(number, loss, accuracy, float(engine.param_groups[0]["lr"]), speed))
            bar.set_postfix(loss=f"{loss:.3f}", test=f"{accuracy.top1:.2%}")
            if on_epoch:
                on_epoch(log[-1])
    model.eval()
    return TrainLog(tuple(log))


def _engine(model: nn.Module, name: str, **options: float) -> Optimizer:
    from timm.optim import create_optimizer_v2

    if not options["lr"] > 0:
        raise OptionError(f"the learning rate is {options['lr']:g}; it must be above 0.")
    try:
        engine: Optimizer = create_optimizer_v2(model, opt=name, **options)
    except ValueError as error:
        raise OptionError(f"optimizer `{name}` cannot be made: {error}") from error
    return engine


def _one_pass(
    model: nn.Module,
    data: Data,
    engine: Optimizer,
    scheduler: Any,
    number: int,
    label_smoothing: float,
    device: str | torch.device,
    bar: Any,
) -> tuple[float, float]:
    """Mean loss and images per second of one epoch."""
    model.train()
    total, images_seen, start = 0.0, 0, time.perf_counter()
    for step, (images, labels) in enumerate(data.train):
        scheduler.step_update((number - 1) * len(data.train) + step)
        loss = F.cross_entropy(model(images.to(device)), labels.to(device), label_smoothing=label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise OptionError(
                f"the loss is {value} at epoch {number}, step {step + 1} of {len(data.train)}, "
                f"at learning rate {engine.param_groups[0]['lr']:.3g}: lower the rate, lengthen the warm-up, "
                "or look for images or weights that are not numbers."
            )
        engine.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        engine.step()
        total += value
        images_seen += len(images)
        bar.update()
    return total / len(data.train), images_seen / (time.perf_counter() - start)
