"""Run one training: its progress, its steps, and the state that a checkpoint stores."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxprune.common.progress import Lines
from fxprune.common.random import seeded
from fxprune.errors import DataError, DivergedError, StoppedError
from fxprune.passes.distributed import LocalBatch, local_batches
from fxprune.passes.options import TrainOptions
from fxprune.passes.store import Checkpoint, distinct_tensors

from .answers import Score, answers
from .evaluate import Accuracy, evaluate
from .log import Callbacks, Epoch, TrainLog
from .loss import make_loss
from .phase import Phase
from .replicas import check_same, parallel, sync_buffers
from .schedule import make_scheduler, steps_per_epoch_of
from .signals import StopRequest
from .state import Progress, load_tensors
from .step import LossWatch, Step, make_optimizer
from .streams import Stream, read_streams, set_streams

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


class Training:
    """A model in training; :func:`fxprune.passes.train.fit.train` explains the arguments."""

    def __init__(self, model: nn.Module, data: Data, phase: Phase, options: TrainOptions, callbacks: Callbacks) -> None:
        device, ranks = torch.device(phase.device), phase.ranks
        self._model = model.to(device)
        if options.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._data, self._options, self._device, self._callbacks = data, options, device, callbacks
        self._phase, self._ranks = phase, ranks
        self._per_epoch = steps_per_epoch_of(len(data.train), options)
        self.steps = phase.epochs * self._per_epoch
        called = parallel(model, ranks, data.inputs, device)  # before the hook, which looks at the weights
        self._optimizer = make_optimizer(model, options, phase.lr)
        self._scheduler = make_scheduler(self._optimizer, options, epochs=phase.epochs, steps_per_epoch=self._per_epoch)
        loss = make_loss(options, data.num_classes, phase.teacher, data.task.loss)
        self._step = Step(called, self._optimizer, loss, options, device, ranks)
        self._watch = LossWatch(device)
        self._ema = _average(model, options)
        self.hook: Any = callbacks.optimizer_hook(self._optimizer)
        self._progress = self._begin(1)
        self._streams: dict[str, Any] | None = None
        self._draws = self._own_draws()
        self._stop = StopRequest()
        self._checkpoint: Checkpoint | None = None
        self._written: int | None = None
        self._earlier: Path | None = None

    def run(self, bar: Lines, stop: StopRequest, checkpoint: Checkpoint | None) -> TrainLog:
        """Take every remaining step."""
        self._stop, self._checkpoint = stop, checkpoint
        state = self._ranks.share(checkpoint.read) if checkpoint else None
        self._earlier = self._ranks.share(lambda: checkpoint.earlier) if checkpoint else None
        if state is not None:
            self.load_state_dict(state)
            bar.begin(self._done)
        if self._progress.epoch <= self._phase.epochs:
            while self._progress.epoch <= self._phase.epochs:
                bar.rename(f"  {self._phase.label} {self._progress.epoch}/{self._phase.epochs}")
                epoch = self._train_epoch(bar)
                said, loss = f"  epoch {epoch.number} of {self._phase.epochs}", f"{epoch.loss:.3f}"
                bar.say(f"{said}: loss {loss}, test {epoch.accuracy}", loss=loss, test=epoch.accuracy.short)
                self._callbacks.on_epoch(epoch)
                self._progress = self._begin(epoch.number + 1, [*self._progress.log, epoch])
                self._save()
            self._raise_if_stopped(self._agree_to_stop())  # after the save, during which a signal may have come
        self._check_weights()
        self._finish()
        return TrainLog(tuple(self._progress.log))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes, except the learning rate, which follows from the steps.

        All processes must call this; the first one gets the state of all.
        """
        progress = self._progress
        log = [(e.number, e.steps, e.loss, *astuple(e.accuracy), e.lr, e.images_per_second) for e in progress.log]
        return {
            "steps": self._done,
            "place": (progress.epoch, progress.step, progress.loss, progress.images, progress.seconds),
            "log": log,
            "streams": self._ranks.gather(read_streams() | {"own": getattr(self._draws, "state", None)}),
            "model": distinct_tensors(self._model),
            "ema": None if self._ema is None else distinct_tensors(self._ema.module),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._step.scaler.state_dict(),
            "hook": self.hook.state_dict() if hasattr(self.hook, "state_dict") else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the training from a :meth:`state_dict`."""
        epoch, step, loss, images, seconds = state["place"]
        kind = Accuracy if self._data.task.classifies else Score
        log = [Epoch(n, steps, mean, kind(*score), lr, speed) for n, steps, mean, *score, lr, speed in state["log"]]
        self._progress = Progress(epoch, step, loss.to(self._device), images, seconds, log)
        self._streams = state["streams"][self._ranks.rank] if 0 < step < self._per_epoch else None
        self._written = self._done
        load_tensors(self._model, state["model"])
        if self._ema is not None:
            load_tensors(self._ema.module, state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self._step.scaler.load_state_dict(state["scaler"])
        if state["hook"] is not None:
            self.hook.load_state_dict(state["hook"])

    @property
    def _done(self) -> int:
        return (self._progress.epoch - 1) * self._per_epoch + self._progress.step

    def _begin(self, epoch: int, log: Sequence[Epoch] = ()) -> Progress:
        return Progress(epoch, 0, torch.zeros((), device=self._device), log=[*log])

    def _own_draws(self) -> AbstractContextManager[None]:
        """Return a random stream for the network that differs between processes."""
        if self._ranks.count == 1:
            return nullcontext()
        return Stream(self._device, self._phase.seed, self._progress.epoch, self._ranks.rank + 1)

    def _train_epoch(self, bar: Lines) -> Epoch:
        """Take the remaining steps of the present epoch, then test."""
        progress = self._progress
        with seeded(self._phase.seed, progress.epoch):
            self._model.train()
            self._draws = self._own_draws()
            start = time.perf_counter() - progress.seconds
            for batches in self._batches():
                self.train_step(batches)
                progress.seconds = time.perf_counter() - start
                bar.update()
                asked = self._agree_to_stop()
                if asked or self._checkpoint_is_due():
                    self._save()
                self._raise_if_stopped(asked)
            self._raise_if_diverged(self._watch.look())
            tested = self._model if self._ema is None else self._ema.module
            accuracy = self._score(tested)
        return Epoch(
            number=progress.epoch,
            steps=self._done,
            loss=float(progress.loss) / progress.step,
            accuracy=accuracy,
            lr=float(self._optimizer.param_groups[0]["lr"]),
            images_per_second=progress.images / max(progress.seconds, 1e-9),
        )

    def _score(self, model: nn.Module) -> Accuracy | Score:
        """Test a network; every process computes a metric of its own on all samples."""
        if self._data.task.classifies:
            return evaluate(model, self._data.test, self._device, ranks=self._ranks)
        return answers(model, self._data.test, self._device, self._data.task).score()

    def _batches(self) -> Iterator[list[LocalBatch]]:
        """Yield the batches of each remaining step of the epoch.

        After a checkpoint, this draws the epoch again from its seed, skips the batches that are done, and restores the
        streams of random numbers.
        """
        progress, size = self._progress, self._options.accumulate
        if progress.step == self._per_epoch:
            return
        batches = local_batches(self._data.train, self._ranks)
        for _ in itertools.islice(batches, progress.step * size):
            pass
        if self._streams is not None:
            set_streams(self._streams)
            if isinstance(self._draws, Stream):
                self._draws.state = self._streams["own"]
            self._streams = None
        while several := list(itertools.islice(batches, size)):
            yield several

    def train_step(self, batches: Sequence[LocalBatch]) -> None:
        """Take one step."""
        self._check_classes(batches)
        progress = self._progress
        self._scheduler.step_update(self._done)
        with self._draws:
            loss = self._step.gradients(batches)
        self._raise_if_diverged(self._watch.see(loss, self._done))
        if not self._step.apply():
            self._callbacks.on_skipped_step(self._done)
        progress.loss += loss
        sync_buffers(self._model, self._ranks)
        progress.images += sum(part.total for part in batches)
        progress.step += 1
        if self._ema is not None:
            self._ema.update(self._model, step=self._done)

    def _check_classes(self, batches: Sequence[LocalBatch]) -> None:
        """Raise DataError for a class without an output of the network; CUDA would abort."""
        for batch in batches if self._data.task.classifies else ():
            if not batch.labels.is_cuda and len(batch.labels) and int(batch.labels.max()) >= self._data.num_classes:
                raise DataError(
                    f"`{self._data.name}` has a training image of class {int(batch.labels.max())}, and its test data "
                    f"only {self._data.num_classes} classes, numbered from 0."
                )

    def _agree_to_stop(self) -> signal.Signals | None:
        """Share a signal that one process received, so that all stop after the same step.

        Act only on this answer: the next signal reaches one process before another.
        """
        asked = self._ranks.largest(self._stop.signal or 0) if self._checkpoint is not None else 0
        return signal.Signals(asked) if asked else None

    def _checkpoint_is_due(self) -> bool:
        every = self._checkpoint.every if self._checkpoint else 0
        return bool(every) and self._done % every == 0

    def _save(self) -> None:
        """Write a checkpoint; raise DivergedError if its numbers are not finite."""
        if self._checkpoint is None:
            return
        self._raise_if_diverged(self._watch.look())
        self._check_weights()
        state = self.state_dict()
        if self._ranks.first:
            self._checkpoint.write(state)
        self._ranks.wait()  # no process stops before it is written
        self._written = self._done

    def _raise_if_stopped(self, asked: signal.Signals | None) -> None:
        """Raise StoppedError if all processes agreed to stop; the checkpoint is written already."""
        if asked and self._checkpoint is not None:
            raise StoppedError(
                f"stopped by {asked.name} after step {self._done} of {self.steps} of `{self._phase.label}`; the "
                f"checkpoint is {self._checkpoint.path}. To go on, give the same options and `resume` (--resume) auto.",
                asked,
            )

    def _check_weights(self) -> None:
        """Raise DivergedError if a weight is not finite, in the phase that caused it."""
        if not all(bool(parameter.isfinite().all()) for parameter in self._model.parameters()):
            raise DivergedError(f"weights are no longer finite {self._where(self._done - 1)}")

    def _raise_if_diverged(self, bad: tuple[int, float] | None) -> None:
        if bad is not None:
            raise DivergedError(f"the loss is {bad[1]} {self._where(bad[0])}")

    def _where(self, step: int) -> str:
        """Describe a step, counted from 0, for an error message, with advice."""
        epoch, inside = divmod(step, self._per_epoch)
        self._scheduler.step_update(step)
        good = "no checkpoint was written"
        if self._earlier is not None:
            good = f"the last good checkpoint is {self._earlier}, of an earlier phase"
        if self._checkpoint is not None and self._written is not None:
            good = f"the last good checkpoint is {self._checkpoint.path}, after step {self._written}"
        has = self._checkpoint is not None and (self._written is not None or self._earlier is not None)
        way = " To begin from the checkpoint with other options, give it as `checkpoint` (--checkpoint)." if has else ""
        return (
            f"at epoch {epoch + 1}, step {inside + 1} of {self._per_epoch}, in `{self._phase.label}`, at learning rate "
            f"{self._optimizer.param_groups[0]['lr']:.3g}; {good}. Lower the rate, lengthen the warm-up, or look for "
            f"images or weights that are not numbers.{way}"
        )

    @torch.no_grad()
    def _finish(self) -> None:
        """Leave the final weights in the model, in evaluation mode and in contiguous memory."""
        if self._ema is not None:
            load_tensors(self._model, distinct_tensors(self._ema.module))
        if self._options.channels_last:
            self._model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self._model.eval()
        check_same(self._model, self._ranks)


def _average(model: nn.Module, options: TrainOptions) -> Any:
    """Make the average of the weights so far, or None.

    Its decay rises to the given one, so that it forgets the first weights.
    """
    if options.ema is None:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=options.ema, use_warmup=True)
