"""The two trainings of the main job: the wide network for its data, then with C-SGD until its clusters are equal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import Optimizer

from fxprune.errors import OptionError
from fxprune.passes.csgd import Csgd, Deviation, csgd
from fxprune.passes.options import DEVIATION, EPOCHS, Job, trains_wide
from fxprune.passes.store import Checkpoint
from fxprune.passes.train import ALONE, Callbacks, Epoch, Ranks, learning_rates, steps_per_epoch_of, train
from fxprune.plans import Plan

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


def csgd_rates(job: Job, data: Data) -> list[float]:
    """Learning rate of every step with C-SGD."""
    options = job.of_csgd()
    per_epoch = steps_per_epoch_of(len(data.train), options)
    return learning_rates(lr=job.csgd_lr, epochs=job.csgd_epochs, steps_per_epoch=per_epoch, options=options)


def wide_epochs(job: Job) -> int:
    """How long the wide network is trained: where it has no weights for its data, or where that is asked for."""
    return job.epochs if job.epochs is not None else EPOCHS if trains_wide(job) else 0


def train_wide(
    job: Job,
    model: nn.Module,
    data: Data,
    device: torch.device,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Train the wide network, if it is to be trained at all."""
    if epochs := wide_epochs(job):
        train(
            model,
            data,
            epochs=epochs,
            lr=job.lr,
            options=job.of_wide(),
            teacher=teacher,
            device=device,
            seed=job.seed,
            progress=job.progress,
            checkpoint=checkpoint,
            ranks=ranks,
            callbacks=Callbacks(on_epoch=_both(_heartbeat(job), on_epoch)),
        )


def train_csgd(
    job: Job,
    model: nn.Module,
    plan: Plan,
    data: Data,
    device: torch.device,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[Epoch | None, Csgd], None] | None = None,
    stage: int = 1,
    ranks: Ranks = ALONE,
) -> Deviation:
    """Train on until the members of every cluster are equal but for a deviation, which is returned.

    ``on_epoch`` gets each epoch, None before the first, and the hook.
    """
    hooks: list[Csgd] = []
    rates = csgd_rates(job, data)

    def hook(optimizer: Optimizer) -> Csgd:
        if job.strength is not None:
            hooks.append(csgd(model, plan, optimizer, job.strength, coupled=job.coupled))
        else:
            hooks.append(csgd(model, plan, optimizer, deviation=deviation_asked(job), lrs=rates, coupled=job.coupled))
        if not (checkpoint and checkpoint.exists()):
            tell(None)
        return hooks[-1]

    def tell(epoch: Epoch | None) -> None:
        if on_epoch is not None:
            on_epoch(epoch, hooks[-1])

    def skip(step: int) -> None:
        """Let the steps that are left make up for the pull that was not taken."""
        if job.strength is None:
            with contextlib.suppress(OptionError):  # too late; the deviation at the end is reported
                hooks[-1].retarget(deviation_asked(job), rates[step + 1 :])

    train(
        model,
        data,
        epochs=job.csgd_epochs,
        lr=job.csgd_lr,
        options=job.of_csgd(),
        teacher=teacher,
        device=device,
        seed=job.seed + stage,  # other shuffles than those of the wide network
        progress=job.progress,
        label=phase_of(stage),
        checkpoint=checkpoint,
        ranks=ranks,
        callbacks=Callbacks(
            optimizer_hook=hook,
            on_skipped_step=skip,
            on_epoch=_both(_heartbeat(job), tell),
        ),
    )
    return hooks[-1].deviation()


def phase_of(stage: int) -> str:
    """Name of the C-SGD of a stage, counted from 1, in records, checkpoints and seconds."""
    return "csgd" if stage == 1 else f"csgd{stage}"


def deviation_asked(job: Job) -> float:
    """The largest relative deviation within a cluster that C-SGD is to end at."""
    return DEVIATION if job.deviation is None else job.deviation


def _both(*calls: Callable[[Epoch], None] | None) -> Callable[[Epoch], None]:
    def both(epoch: Epoch) -> None:
        for call in calls:
            if call is not None:
                call(epoch)

    return both


def _heartbeat(job: Job) -> Callable[[Epoch], None] | None:
    """A line per epoch where there is no terminal for a bar."""
    if job.progress is False or job.progress or sys.stderr.isatty():
        return None

    def say(epoch: Epoch) -> None:
        print(f"  epoch {epoch.number}: loss {epoch.loss:.3f}, test {epoch.accuracy}", file=sys.stderr, flush=True)

    return say
