"""Keep checkpoints of the main job, one per phase, so that a resumed job repeats nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxprune.coupling import Coupling
from fxprune.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    LostProcessError,
    OptionError,
    StoppedError,
    first_line,
    is_out_of_memory,
)
from fxprune.latencies import LatencyTable
from fxprune.passes.distributed import ALONE, Ranks
from fxprune.passes.options import REMOVED, RUNTIMES, Job
from fxprune.passes.store import BEFORE, CHECKPOINTS, LATENCY, METRICS, Checkpoint, OwnFiles
from fxprune.passes.train import digest
from fxprune.plans import Plan
from fxprune.selection import select

from .reuse import MAY_DIFFER, files_read

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data

# Messages of Gloo and NCCL about a process that no longer answers.
_LOST = ("Connection reset by peer", "Connection closed by peer", "NCCL", "remote process exited")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one job, in ``OUTPUT/checkpoints/``.

    Attributes:
        folder: where they are; it is made for the first one.
        identity: what determines the weights: options, data, initial weights, files that the options name.
        every: steps between two checkpoints.
        resume: whether to resume from existing checkpoints.
        ranks: which process this is; only the first one reads and writes.
    """

    folder: Path
    identity: Mapping[str, Any]
    every: int
    resume: bool
    ranks: Ranks = ALONE

    def checkpoint(self, phase: str) -> Checkpoint:
        """Return the checkpoint of a phase."""
        path = self.folder / f"{phase}.pt"
        return Checkpoint(path, self.identity, self.every, self.resume, self._newest(), self.own)

    @property
    def own(self) -> OwnFiles:
        """The list of our files in the folder."""
        return OwnFiles(self.folder)

    def _newest(self) -> Path | None:
        """Return the newest checkpoint of a training, not of a plan."""
        found = [path for path in self.own.present(".pt") if not path.name.startswith("plan")]
        return next((path for path in reversed(found) if not path.name.endswith(".previous.pt")), None)

    def steps_done(self, *phases: str) -> int | None:
        """Count the finished steps of these phases; None without a checkpoint.

        Raises:
            CheckpointError: a checkpoint is damaged, or belongs to another job.
        """
        states = [self.checkpoint(phase).read(peek=True) for phase in phases]
        found = [int(state["steps"]) for state in states if state is not None]
        return sum(found) if found else None

    def plan(self, coupling: Coupling, make: Callable[[], Plan], *, stage: int = 1) -> Plan:
        """Return the first process's plan: the stored one of an interrupted job, or a new one.

        A new plan is stored.
        """
        checkpoint = self.checkpoint("plan" if stage == 1 else f"plan{stage}")

        def state() -> dict[str, Any]:
            if (kept := checkpoint.read()) is not None:
                return kept
            plan = make()
            clusters = {name: torch.as_tensor(cluster) for name, cluster in plan.clusters.items()}
            new = {"clusters": clusters, "method": plan.method, "seed": plan.seed}
            checkpoint.write(new)
            return new

        found = self.ranks.share(state)
        clusters = {name: cluster.numpy() for name, cluster in found["clusters"].items()}
        return Plan(coupling, clusters, found["method"], found["seed"])

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """Clean up after an error before the first checkpoint; after it, say how to resume.

        The error may be a signal, a full disk, lack of memory, or a killed process that reads images. If training
        diverged, its records are always kept: they show where that began.

        At the first Ctrl-C or SIGTERM, training ends with a checkpoint; everything else ends at once.
        """
        if not self.ranks.first:
            yield
            return
        try:
            yield
        except BaseException as error:
            measured = isinstance(error, DivergedError) and self._measured()
            code = error.code if isinstance(error, SystemExit) else None
            number = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}.get(type(error))
            asked = number if code in (None, 128 + (number or 0)) else None
            if not measured and not self.own.present(".pt"):
                self.own.clear()
                if asked is not None:
                    said = f"stopped by {asked.name} before the first checkpoint: nothing was kept."
                    raise StoppedError(said, asked) from error
                raise
            if measured:
                raise DivergedError(f"{error} What was measured before is in {self.folder / METRICS}.") from error
            kept = f"what was done is in {self.folder}. To go on, give the same options and `resume` (--resume) auto."
            if _is_of_reader(error):
                raise DataError(
                    f"a process that reads images ended ({first_line(error).rstrip('.')}): often there was no "
                    f"memory for it, and fewer `workers` need less; {kept}"
                ) from error
            if self.ranks.count > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST):
                raise LostProcessError(
                    f"another process of this training has ended ({first_line(error)[:120]}): its own last "
                    f"words say why, and if there are none, it was killed; {kept}"
                ) from error
            if isinstance(error, OSError) or is_out_of_memory(error):
                error.add_note(kept)
            if asked is None:
                raise
            raise StoppedError(f"stopped by {asked.name}; {kept}", asked) from error

    def _measured(self) -> bool:
        """Tell whether records of the training exist."""
        file = self.folder / METRICS
        return file.exists() and file.stat().st_size > 0

    def keep_times(self, times: LatencyTable | None) -> None:
        """Keep the table of times of this job, and remove that of another one."""
        if times is not None:
            self.own.claim(LATENCY)
            times.save(self.folder / LATENCY)
        elif LATENCY in self.own.names():
            (self.folder / LATENCY).unlink(missing_ok=True)

    def publish(self, folder: Path) -> None:
        """Copy the records of the training to the other results."""
        for path in self.own.present():
            if path.suffix != ".pt":
                copy = folder / path.relative_to(self.folder)
                copy.parent.mkdir(exist_ok=True)
                shutil.copy(path, copy)

    def remove(self) -> None:
        """Remove all checkpoints of a finished job."""
        OwnFiles(self.folder.with_name(BEFORE)).clear()
        self.own.clear()


def open_phases(job: Job, model: nn.Module, data: Data, ranks: Ranks = ALONE) -> Checkpoints:
    """Open the checkpoints of the job with this prepared network and data.

    Without ``resume``, checkpoints of an earlier run are moved to ``OUTPUT/checkpoints.before/`` until the job is done.
    With it, the job resumes from there if they belong to the same job, and the run in between wrote none.
    """
    folder = Path(job.output) / CHECKPOINTS
    # Each process draws its own random numbers, so a run resumes with the same number of processes.
    identity = _identity(job, model, data) | ({"processes": ranks.count} if ranks.count > 1 else {})
    if ranks.first:
        now, before = OwnFiles(folder), OwnFiles(folder.with_name(BEFORE))
        if job.resume is not None and not now.present(".pt") and _is_of(identity, before):
            before.move(now)
        elif job.resume is None and now.present(".pt"):
            now.move(before)
    return Checkpoints(folder, identity, job.checkpoint_every, job.resume is not None, ranks)


def kept_times(job: Job, coupling: Coupling) -> LatencyTable | None:
    """Return the table of times that an interrupted run kept, if it is for this job."""
    if job.resume is None or job.latency is None or job.latency_table is not None:
        return None
    groups = select(coupling, only=job.only, freeze=job.freeze, internal_only=job.internal_only)
    for own in (OwnFiles(Path(job.output) / name) for name in (CHECKPOINTS, BEFORE)):
        if LATENCY in own.names():
            with contextlib.suppress(OptionError):  # it is damaged, or of another job: time again
                times = LatencyTable.read(own.folder / LATENCY)
                times.check(coupling, [*groups], job.multiple, job.runtime or RUNTIMES[0], job.batch or 1)
                return times
    return None


def check_checkpoints(output: str | os.PathLike[str]) -> None:
    """Complete the moving or removing of checkpoints that a killed run began.

    Raises:
        OptionError: a user's file has the name of a checkpoint.
        CheckpointError: the list of checkpoints is damaged.
    """
    now, before = (OwnFiles(Path(output) / name) for name in (CHECKPOINTS, BEFORE))
    for own, other in ((now, before), (before, now)):
        own.mend(other)
        own.check()


def _is_of_reader(error: BaseException) -> bool:
    """Tell whether a process that reads images was lost.

    One that has just died still counts as alive to PyTorch, which then raises the error of a broken pipe.
    """
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return True
    waits = any(frame.f_code.co_name == "_try_get_data" for frame, _ in traceback.walk_tb(error.__traceback__))
    return waits and isinstance(error, OSError | EOFError)


def _is_of(identity: Mapping[str, Any], own: OwnFiles) -> bool:
    """Tell whether a folder holds checkpoints, all of this job."""
    try:
        return bool([Checkpoint(file, identity, 0, True).read(peek=True) for file in own.present(".pt")])
    except CheckpointError:
        return False


def _identity(job: Job, model: nn.Module, data: Data) -> dict[str, Any]:
    options = {name: value for name, value in job.options().items() if name not in MAY_DIFFER}
    # The initial weights include those of the checkpoint.
    contents = {f"content of {name}": sha[:16] for name, sha in files_read(job).items() if name != "checkpoint"}
    size = f"{len(data.train)} batches, {data.num_classes} classes, {data.in_chans}x{data.image_size}x{data.image_size}"
    # Checkpoints of earlier versions hold options that are gone, at the value that changes nothing.
    gone = {name: value for name, (value, _) in REMOVED.items()}
    return gone | options | contents | {"training data": size, "first weights": digest(model)}
