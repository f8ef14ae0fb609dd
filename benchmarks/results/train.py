"""Train all arms by one loop: SGD with Nesterov momentum and a cosine schedule."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from fxprune.models_zoo.data import Data, Loader
from fxprune.passes.train import ContiguousStrided

from .settings import Settings

Hook = Callable[[Optimizer, list[float]], AbstractContextManager[Any]]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the images of -log p(label)."""
    return F.cross_entropy(model(images), labels)


@dataclass(frozen=True)
class ArmPhase:
    """The epochs of an arm, its first learning rate, and its order of images."""

    epochs: float
    lr: float
    seed: int


def fit(
    model: nn.Module,
    data: Data,
    settings: Settings,
    phase: ArmPhase,
    *,
    hook: Hook | None = None,
    loss: Loss = cross_entropy,
) -> None:
    """Train the model in place; the seed determines the order of images, whatever the arm."""
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optimizer_for(model, settings, phase.lr)
    rates = rates_for(settings, phase.lr, round(phase.epochs * len(data.train)))
    with hook(optimizer, rates) if hook else nullcontext(), torch.random.fork_rng():
        torch.manual_seed(phase.seed)
        for step, (images, labels) in enumerate(itertools.islice(_endless(data.train), len(rates))):
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
            value = take_step(model, optimizer, images, labels, loss)
            if step % len(data.train) == 0:
                print(f"step {step} of {len(rates)}: loss {value:.4f}", flush=True)
    model.eval()


def take_step(
    model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor, loss: Loss = cross_entropy
) -> float:
    """Take one step down the gradient of the loss, and return it."""
    optimizer.zero_grad()
    with ContiguousStrided():
        lost = loss(model, images.to(memory_format=torch.channels_last), labels)
        lost.backward()
    optimizer.step()
    value = lost.item()
    if not value < float("inf"):
        raise RuntimeError(f"the loss is {value} at learning rate {optimizer.param_groups[0]['lr']:.3g}.")
    return value


def optimizer_for(model: nn.Module, settings: Settings, lr: float) -> Optimizer:
    """Make the optimizer of all arms."""
    from timm.optim import create_optimizer_v2

    momentum, decay = settings.momentum, settings.weight_decay
    optimizer: Optimizer = create_optimizer_v2(model, opt="sgd", lr=lr, momentum=momentum, weight_decay=decay)
    return optimizer


def rates_for(settings: Settings, lr: float, steps: int) -> list[float]:
    """Return the learning rate of each step: a rise to ``lr`` and half a cosine down to 0."""
    from timm.scheduler import CosineLRScheduler

    warmup = int(settings.warmup * steps)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=lr)
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=max(steps - warmup, 1),
        warmup_t=warmup,
        warmup_lr_init=lr / (warmup + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )
    rates = []
    for step in range(steps):
        scheduler.step_update(step)
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


def _endless(loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


@dataclass(frozen=True, eq=False)
class TestScore:
    """The results of a network on the test images."""

    classes: Tensor
    top1: float
    loss: float

    def changed(self, other: TestScore) -> int:
        """Count the images with another class."""
        return int((self.classes != other.classes).sum())


@torch.inference_mode()
def score(model: nn.Module, data: Data) -> TestScore:
    """Test a network in evaluation mode."""
    model.eval()
    outputs, labels = zip(*((model(images), labels) for images, labels in data.test), strict=True)
    logits, wanted = torch.cat(outputs), torch.cat(labels)
    classes = logits.argmax(1)
    return TestScore(classes, float((classes == wanted).double().mean()), float(F.cross_entropy(logits, wanted)))
