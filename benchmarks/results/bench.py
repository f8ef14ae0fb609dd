"""The arms of a seed share one split of the data, one recipe and one wide network."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxprune
from fxprune.common.files import written_aside
from fxprune.costs import cost
from fxprune.coupling import Coupling
from fxprune.models_zoo.data import Data
from fxprune.models_zoo.networks import resnet20

from .settings import Arm, Settings, digest
from .train import ArmPhase, Loss, cross_entropy, fit, score


@dataclass(frozen=True)
class ArmTask:
    """One arm with one seed, in one process."""

    arm: Arm
    seed: int
    settings: Settings
    cache: Path
    threads: int = 1


@dataclass(frozen=True, eq=False)
class Bench:
    """The task of an arm, its data, the recorder, and its trims: (changed, error in float64)."""

    task: ArmTask
    data: Data
    record: Callable[..., None]
    trims: list[tuple[int, float]] = field(default_factory=list)

    @property
    def more(self) -> float:
        """Epochs after the first ones."""
        return self.task.settings.more_epochs

    def network(self, width: float) -> nn.Module:
        """Make a fresh network; ``width`` is relative to the wide one."""
        with torch.random.fork_rng():
            torch.manual_seed(self.task.seed)
            return resnet20(num_classes=self.data.num_classes, in_chans=1, width=width * self.task.settings.width)

    def couple(self, model: nn.Module) -> Coupling:
        """Analyse a network in evaluation mode."""
        size = self.task.settings.image_size
        return fxprune.couple(model.eval(), torch.empty(2, 1, size, size, device="meta"))

    def train(
        self, model: nn.Module, epochs: float, *, phase: int, hook: Any = None, loss: Loss = cross_entropy
    ) -> None:
        """Train after the first epochs; each phase has its own order of images."""
        settings = self.task.settings
        fit(model, self.data, settings, ArmPhase(epochs, settings.more_lr, self._seed(phase)), hook=hook, loss=loss)

    def fresh(self, width: float, epochs: float) -> nn.Module:
        """Train a network of this width from its initial weights."""
        model, settings = self.network(width), self.task.settings
        fit(model, self.data, settings, ArmPhase(epochs, settings.lr, self._seed(0)))
        return model

    def wide(self, width: float = 1.0) -> nn.Module:
        """Return the network after W epochs; the first arm trains it, the others load it."""
        model = self.network(width)
        weights = self.cached(
            Arm("first", str(width)), lambda: self.fresh(width, self.task.settings.wide_epochs).state_dict()
        )
        model.load_state_dict(weights)
        return model.eval()

    def cached(self, what: Arm, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return what the first arm of this seed has made; the others wait for it."""
        return cached(self.task, what, make)

    def tell_final(self, model: nn.Module) -> None:
        """Record the accuracy and the size of the arm's final network."""
        last, size = score(model, self.data), cost(self.couple(model))
        self.record(top1=last.top1, loss=last.loss, parameters=size.params, macs=size.macs // 2)  # a batch of two

    def _seed(self, phase: int) -> int:
        return 1000 * self.task.seed + phase


def cached(task: ArmTask, what: Arm, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what the first arm of a seed has made; the others wait for it."""
    name = f"{digest(what, task.settings)}-{task.seed}-{torch.__version__}.pt"
    task.cache.mkdir(parents=True, exist_ok=True)
    with open(task.cache / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (task.cache / name).exists():
            made = make()
            with written_aside(task.cache / name) as path:
                torch.save(made, path)
    found: Mapping[str, Any] = torch.load(task.cache / name, weights_only=True)
    return found
