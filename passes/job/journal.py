"""What the main job records of each epoch, in ``metrics.jsonl`` and, where asked for, in TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fxprune.passes.csgd import Csgd
from fxprune.passes.report import Metrics
from fxprune.passes.store import EVENTS, METRICS, RECIPE
from fxprune.passes.train import Epoch

from .resume import Checkpoints
from .training import phase_of


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
def open_journal(
    checkpoints: Checkpoints, wide_steps: int, csgd_steps: int, *, stages: int = 1, tensorboard: bool = False
) -> Iterator[Journal]:
    """Begin the records, or go on where the checkpoints do; they lie with these until the job is done.

    Of several processes, the first one records.

    Args:
        checkpoints: of the job.
        wide_steps: of the training of the wide network.
        csgd_steps: of each stage of C-SGD.
        stages: how many there may be.
        tensorboard: record for TensorBoard, too.

    Raises:
        CheckpointError: a checkpoint is of another job, or it or the records are damaged.
        OptionError: TensorBoard is asked for, but not installed.
    """
    if not checkpoints.ranks.first:
        yield Journal(None, wide_steps, csgd_steps)
        return
    done = checkpoints.steps_done(*map(phase_of, range(stages + 1)))
    own, folder = checkpoints.own, checkpoints.folder
    own.claim(METRICS, RECIPE)
    before = _events(folder)
    if done is not None:
        own.check_noted(METRICS)
    with Metrics(folder, tensorboard=tensorboard, resume_at=done, on_write=lambda: own.note(METRICS)) as metrics:
        own.adopt(_events(folder) - before)
        yield Journal(metrics, wide_steps, csgd_steps)


def _events(folder: Path) -> set[str]:
    """The event files that are there."""
    return {f"{EVENTS}/{path.name}" for path in (folder / EVENTS).glob("events.out.tfevents.*")}
