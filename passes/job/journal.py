"""Record each epoch of the main job in ``metrics.jsonl`` and optionally in TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fxprune.passes.csgd import Csgd
from fxprune.passes.report import Metrics
from fxprune.passes.store import EVENTS, METRICS, RECIPE
from fxprune.passes.train import Epoch

from .resume import Checkpoints


class Journal:
    """The records of a job, one per epoch, with steps counted over all phases.

    Without metrics, it records nothing.
    """

    def __init__(self, metrics: Metrics | None, wide_steps: int, csgd_steps: int) -> None:
        self._metrics, self._wide_steps, self._csgd_steps = metrics, wide_steps, csgd_steps

    def wide(self, epoch: Epoch) -> None:
        """Record an epoch of the wide network."""
        self._record("train", epoch, 0)

    def csgd(self, epoch: Epoch | None, hook: Csgd, *, stage: int = 1) -> None:
        """Record an epoch of C-SGD, None before the first, with the deviation of clusters after it."""
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
            **epoch.accuracy.numbers,
            lr=epoch.lr,
            **more,
            images_per_second=epoch.images_per_second,
        )


@contextlib.contextmanager
def open_journal(
    checkpoints: Checkpoints, wide_steps: int, csgd_steps: int, *, stages: int = 1, tensorboard: bool = False
) -> Iterator[Journal]:
    """Begin the records, or continue those of the checkpoints; they share a folder for now.

    With several processes, the first one records.

    Raises:
        CheckpointError: a checkpoint belongs to another job, or it or the records are damaged.
        OptionError: TensorBoard is not installed.
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
    """Return the existing event files."""
    return {f"{EVENTS}/{path.name}" for path in (folder / EVENTS).glob("events.out.tfevents.*")}


def phase_of(stage: int) -> str:
    """Name a training for records and checkpoints: 0 is the wide network, 1 the first stage."""
    return {0: "train", 1: "csgd"}.get(stage, f"csgd{stage}")
