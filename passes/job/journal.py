"""What the main job records of each epoch, in ``metrics.jsonl`` and, where asked for, in TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fxprune.passes.csgd import Csgd
from fxprune.passes.options import Job, write_recipe
from fxprune.passes.report import Metrics
from fxprune.passes.store import EVENTS, METRICS, RECIPE
from fxprune.passes.train import Epoch, steps_per_epoch_of

from .resume import Phases
from .training import phase_of, wide_epochs

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


class Journal:
    """One record per epoch; steps are counted through all phases. Without metrics, nothing is recorded."""

    def __init__(self, metrics: Metrics | None, wide_steps: int, csgd_steps: int) -> None:
        self._metrics, self._wide_steps, self._csgd_steps = metrics, wide_steps, csgd_steps

    def wide(self, epoch: Epoch) -> None:
        """Record an epoch of the wide network."""
        self._record("train", epoch, 0)

    def csgd(self, epoch: Epoch | None, hook: Csgd, *, stage: int = 1) -> None:
        """Record an epoch of C-SGD, None before the first, with how far clusters are from equal after it."""
        deviation = hook.deviation()
        self._record(
            phase_of(stage),
            epoch,
            self._wide_steps + (stage - 1) * self._csgd_steps,
            strength=hook.strength,
            deviation_largest=deviation.largest,
            deviation_median=deviation.median,
            deviation_predicted=hook.predicted(),
        )

    def _record(self, phase: str, epoch: Epoch | None, before: int, **more: float) -> None:
        if self._metrics is None:
            return
        if epoch is None:
            self._metrics.record(phase=phase, epoch=0, step=before, **more)
            return
        self._metrics.record(
            phase=phase,
            epoch=epoch.number,
            step=before + epoch.steps,
            loss=epoch.loss,
            top1=epoch.accuracy.top1,
            lr=epoch.lr,
            **more,
            images_per_second=epoch.images_per_second,
        )


@contextlib.contextmanager
def open_journal(job: Job, data: Data, phases: Phases, *, stages: int = 1) -> Iterator[Journal]:
    """Begin the records, or go on where the checkpoints do; they lie with these until the job is done.

    Of several processes, the first one records.

    Raises:
        CheckpointError: a checkpoint is of another job, or it or the records are damaged.
        OptionError: TensorBoard is asked for, but not installed.
    """
    wide_steps = wide_epochs(job) * steps_per_epoch_of(len(data.train), job.of_wide())
    csgd_steps = job.csgd_epochs * steps_per_epoch_of(len(data.train), job.of_csgd())
    if not phases.ranks.first:
        yield Journal(None, wide_steps, csgd_steps)
        return
    done = phases.steps_done("train", *map(phase_of, range(1, stages + 1)))
    phases.own.claim(METRICS, RECIPE)
    before = _events(phases)
    if done is not None:
        phases.own.check_noted(METRICS)
    with Metrics(
        phases.folder, tensorboard=job.tensorboard, resume_at=done, on_write=lambda: phases.own.note(METRICS)
    ) as metrics:
        phases.own.adopt(_events(phases) - before)
        write_recipe(job, phases.folder / RECIPE)
        yield Journal(metrics, wide_steps, csgd_steps)


def _events(phases: Phases) -> set[str]:
    """The event files that are there."""
    return {f"{EVENTS}/{path.name}" for path in (phases.folder / EVENTS).glob("events.out.tfevents.*")}
