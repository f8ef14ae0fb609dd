"""Train for the main job: the wide network, then with C-SGD until its clusters are equal."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from fxprune.errors import OptionError
from fxprune.passes.csgd import Csgd, Deviation, csgd
from fxprune.passes.distributed import ALONE
from fxprune.passes.options import EPOCHS, Centripetal, Job, TrainOptions, trains_wide
from fxprune.passes.store import Checkpoint
from fxprune.passes.train import Callbacks, Epoch, learning_rates, steps_per_epoch_of, train
from fxprune.plans import Plan

from .clock import Clock
from .journal import Journal, phase_of
from .resume import Checkpoints

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


@dataclass(frozen=True)
class Schedule:
    """The length, the largest learning rate and all other options of a training."""

    epochs: int
    lr: float
    options: TrainOptions

    def steps(self, data: Data) -> int:
        """Return the number of optimizer steps."""
        return self.epochs * steps_per_epoch_of(len(data.train), self.options)

    def rates(self, data: Data) -> list[float]:
        """Return the learning rate of every step."""
        per_epoch = steps_per_epoch_of(len(data.train), self.options)
        return learning_rates(lr=self.lr, epochs=self.epochs, steps_per_epoch=per_epoch, options=self.options)


def wide_schedule(job: Job, *, fresh: bool = False) -> Schedule:
    """Return the schedule of the wide network: by default, none if it has weights for its data.

    Args:
        job: its options.
        fresh: a checkpoint of other classes left the classifier at random.
    """
    epochs = job.epochs if job.epochs is not None else EPOCHS if trains_wide(job) or fresh else 0
    return Schedule(epochs, job.lr, job.of_wide())


def csgd_schedule(job: Job) -> Schedule:
    """Return the schedule of C-SGD in each stage."""
    return Schedule(job.csgd_epochs, job.csgd_lr, job.of_csgd())


@dataclass(frozen=True, eq=False)
class Trainer:
    """A trainer of the networks of one job.

    Attributes:
        wide: schedule of the wide network.
        csgd: schedule of each stage of C-SGD.
        pull: how equal clusters become by its end.
        data: to train on.
        device: where to train.
        seed: of all random numbers.
        progress: show a bar on stderr; None: only if that is a terminal.
        checkpoints: to write and to resume from; None: none.
        journal: records every epoch; None: no records.
        clock: of the job.
    """

    wide: Schedule
    csgd: Schedule
    pull: Centripetal
    data: Data
    device: torch.device
    seed: int = 0
    progress: bool | None = None
    checkpoints: Checkpoints | None = None
    journal: Journal | None = None
    clock: Clock = field(default_factory=partial(Clock, loud=False))

    @classmethod
    def of(cls, job: Job, data: Data, device: torch.device, *, fresh: bool = False, **more: Any) -> Trainer:
        """Make a trainer from the options of a job; ``fresh`` is that of :func:`wide_schedule`."""
        pull = job.only_of(Centripetal)
        more = {"seed": job.seed, "progress": job.progress, **more}
        return cls(wide_schedule(job, fresh=fresh), csgd_schedule(job), pull, data, device, **more)

    def train_wide(self, model: nn.Module, teacher: nn.Module | None = None) -> None:
        """Train the wide network, if its schedule has epochs."""
        if self.wide.epochs:
            record = None if self.journal is None else self.journal.wide
            self._train(model, teacher, 0, Callbacks() if record is None else Callbacks(on_epoch=record))

    def train_csgd(
        self, model: nn.Module, plan: Plan, teacher: nn.Module | None = None, *, stage: int = 1
    ) -> Deviation:
        """Train until the members of every cluster are equal; return the remaining deviation."""
        hooks: list[Csgd] = []
        rates, pull = self.csgd.rates(self.data), self.pull

        def hook(optimizer: Optimizer) -> Csgd:
            if pull.strength is not None:
                hooks.append(csgd(model, plan, optimizer, pull.strength, coupled=pull.coupled))
            else:
                hooks.append(csgd(model, plan, optimizer, deviation=pull.goal, lrs=rates, coupled=pull.coupled))
            checkpoint = self._checkpoint(stage)
            if checkpoint is None or not checkpoint.exists():
                record(None)
            return hooks[-1]

        def record(epoch: Epoch | None) -> None:
            if self.journal is not None:
                self.journal.csgd(epoch, hooks[-1], stage=stage)

        def skip(step: int) -> None:
            """Make up for a skipped pull in the remaining steps."""
            if pull.strength is None:
                with contextlib.suppress(OptionError):  # too few steps remain; the final deviation is reported
                    hooks[-1].retarget(pull.goal, rates[step + 1 :])

        callbacks = Callbacks(optimizer_hook=hook, on_skipped_step=skip, on_epoch=record)
        self._train(model, teacher, stage, callbacks)
        return hooks[-1].deviation()

    def _train(self, model: nn.Module, teacher: nn.Module | None, stage: int, callbacks: Callbacks) -> None:
        schedule = self.csgd if stage else self.wide
        train(
            model,
            self.data,
            epochs=schedule.epochs,
            lr=schedule.lr,
            options=schedule.options,
            teacher=teacher,
            device=self.device,
            seed=self.seed + stage,  # each stage shuffles differently
            progress=self.progress,
            label=phase_of(stage),
            checkpoint=self._checkpoint(stage),
            ranks=self.checkpoints.ranks if self.checkpoints else ALONE,
            callbacks=callbacks,
        )

    def _checkpoint(self, stage: int) -> Checkpoint | None:
        return None if self.checkpoints is None else self.checkpoints.checkpoint(phase_of(stage))
