"""The arms of a seed share training images, unlabelled images and one wide network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.results import Arm, ArmTask, Bench, TestScore, score
from fxprune.costs import cost
from fxprune.models_zoo.data import Data, load_data
from fxprune.models_zoo.networks import CifarResNet

from .settings import PriceSettings

BATCH = 64


@dataclass(frozen=True, eq=False)
class PriceBench(Bench):
    """A bench that also counts the seconds of an arm and compares it with the wide network."""

    spent: list[float] = field(default_factory=list)

    @property
    def settings(self) -> PriceSettings:
        """The settings of the task."""
        settings = self.task.settings
        assert isinstance(settings, PriceSettings)
        return settings

    @property
    def share(self) -> float:
        """The share of the channels that is to be left."""
        return self.task.arm.share

    @property
    def labelled(self) -> list[tuple[Tensor, Tensor]]:
        """The first training images and their classes, in batches, not shifted."""
        train, count = self.data.train, self.settings.images
        images, labels = (x[:count].split(BATCH) for x in (train.images, train.labels))  # type: ignore[attr-defined]
        return list(zip(images, labels, strict=True))

    @property
    def images(self) -> list[Tensor]:
        """The same images without their classes."""
        return [images for images, _ in self.labelled]

    def network(self, width: float) -> nn.Module:
        """Make a fresh network; ``width`` is relative to the wide one."""
        with torch.random.fork_rng():
            torch.manual_seed(self.task.seed)
            classes, width = self.data.num_classes, width * self.settings.width
            return CifarResNet(self.settings.blocks, num_classes=classes, in_chans=1, width=width)

    def cached(self, what: Arm, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return what the arms of this seed share; making it takes no time of this arm."""
        before = self.spent[:]
        found = super().cached(what, make)
        self.spent[:] = before
        return found

    def wide_score(self) -> TestScore:
        """Return the results of the wide network after W epochs."""
        return TestScore(**self.cached(Arm("score", "1"), lambda: vars(score(self.wide(), self.data))))

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Count the CPU seconds of what is inside."""
        start = time.process_time()
        yield
        self.spent.append(time.process_time() - start)

    def train(self, model: nn.Module, epochs: float, **more: Any) -> None:
        """Train after the first epochs, by the clock."""
        with self.clock():
            super().train(model, epochs, **more)

    def fresh(self, width: float, epochs: float) -> nn.Module:
        """Train a network of this width from its initial weights, by the clock."""
        with self.clock():
            return super().fresh(width, epochs)

    def tell_reduced(self, model: nn.Module) -> TestScore:
        """Record the accuracy just after the reduction."""
        found = score(model, self.data)
        self.record(before=self.wide_score().top1, trimmed=found.top1)
        return found

    def tell_final(self, model: nn.Module, found: TestScore | None = None) -> None:
        """Record accuracy, agreement, size and seconds of the arm's final network."""
        found, size = found or score(model, self.data), cost(self.couple(model))
        agreement = 1.0 - found.changed(self.wide_score()) / len(found.classes)
        self.record(top1=found.top1, loss=found.loss, agreement=agreement, cpu_seconds=sum(self.spent))
        self.record(parameters=size.params, macs=size.macs // 2)  # a batch of two


def bench_of(task: ArmTask, record: Callable[..., None]) -> PriceBench:
    """Load all test images and the first N training images of a permutation."""
    settings = task.settings
    assert isinstance(settings, PriceSettings)
    data = load_data(settings.data, image_size=settings.image_size, batch_size=settings.batch_size, seed=task.seed)
    return PriceBench(task, _first(data, settings.train_images, task.seed), record)


def _first(data: Data, count: int, seed: int) -> Data:
    train: Any = data.train
    order = torch.randperm(len(train.images), generator=torch.Generator().manual_seed(seed))[:count]
    return replace(data, train=replace(train, images=train.images[order], labels=train.labels[order]))
