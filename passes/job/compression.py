"""Run the main job: turn a network and data into a narrow network, proven and exported."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxprune.analysis import couple
from fxprune.arguments.inputs import as_inputs
from fxprune.common.versions import versions
from fxprune.coupling import Coupling
from fxprune.latencies import LatencyTable
from fxprune.models_zoo import Network, named_device, on_device
from fxprune.models_zoo.data import preprocessing_of
from fxprune.passes.csgd import Deviation
from fxprune.passes.distributed import Ranks, joined
from fxprune.passes.latency import plan_to, times_for
from fxprune.passes.onnx import export_onnx
from fxprune.passes.options import Job, Target, with_options_of, write_recipe
from fxprune.passes.planning import load_plan
from fxprune.passes.planning import plan as make_plan
from fxprune.passes.report import Result
from fxprune.passes.store import (
    ONNX,
    PLAN,
    RECIPE,
    RESULTS,
    SNAPPED,
    WIDE,
    OutputFolder,
    check_target,
    check_writable,
    output_folder,
    save_weights,
    write_network,
    write_wide_graph,
)
from fxprune.plans import Plan

from .batches import check_batches, check_narrow
from .clock import Clock, named
from .journal import open_journal
from .measure import measure_rows
from .prepare import images_for, prepare, target_of, teacher_from_file
from .result_files import record, write_result
from .resume import Checkpoints, check_checkpoints, kept_times, open_phases
from .reuse import check_input_stays, files_read, finished
from .stages import most_stages, narrow_in_stages, widths_of_stages
from .training import Trainer, csgd_schedule, wide_schedule
from .trim import check_equal, check_snap, check_trim, repaired_merge, settle_statistics, trim

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


@with_options_of(Job)
def compress(model: str | os.PathLike[str] | nn.Module, data: str | os.PathLike[str] | Data, **options: Any) -> Result:
    """Compress a network; the trim changes the class of no test image, or this raises an error.

    Build the network and train it if it has no weights for this data; find coupled channels and cluster them; train
    with C-SGD until clusters are equal; snap, merge and rewrite; verify in float64; export to ONNX and check the file
    in onnxruntime; write everything to a folder, from which ``fxprune.load`` loads the narrow network. Under torchrun,
    all processes train and return the same result, and the first one writes. With ``resume``, a finished job is not
    repeated.

    Args:
        model: name of a network, or a network with one input (it is copied); with ``metric``, any inputs and outputs.
        data: name of a data set, a :class:`fxprune.models_zoo.data.Data`, or a pair of loaders, one to train and one to
            test, with batches of images and classes, as of torch's DataLoader. With ``metric``, batches of inputs and
            targets: pairs, or dicts, of which the network gets the entries that its ``forward`` takes and that are not
            called labels or targets; outputs then stand in for classes in every check.
        **options: options of :class:`fxprune.passes.options.job.Job`: ``keep=0.5``, ``output="out"``, ``epochs=``, ...

    Raises:
        InputError: an option, the model, the data, a plan or a checkpoint is not usable; then nothing is written.
        VerifyError: narrow and wide network disagree (the message names the worst group), or C-SGD has not made the
            clusters equal, so that the trim would change the network. The weights and the plan are kept.
        ExportError: the exported file and the network disagree; the message names the first value. The file is kept.
        OSError: the results cannot be written.

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> layers = torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
        >>> net = torch.nn.Sequential(*layers, torch.nn.Linear(64, 10))
        >>> short = dict(epochs=1, csgd_epochs=2, lr=0.01, csgd_lr=0.05, progress=False)  # to be quick, not good
        >>> result = fxprune.compress(net, "digits", keep=0.5, output="out", **short)
        >>> [row.params for row in result.stages if row.name.startswith(("wide, before", "narrow, after"))]
        [810, 410]
    """
    job = Job(
        os.fspath(model) if isinstance(model, os.PathLike) else model,
        os.fspath(data) if isinstance(data, os.PathLike) else data,
        **options,
    )
    with joined(named_device(job.device)) as ranks:
        if not ranks.first:
            job = job.replace(progress=False)
        found = ranks.share(lambda: finished(job))
        return Compression(job, on_device(job.device), ranks).run() if found is None else found


@dataclass(frozen=True, eq=False)
class Trained:
    """The results of training, which every process has.

    Attributes:
        network: after C-SGD.
        wide: before C-SGD.
        plan: the clusters.
        deviation: how far the members of clusters are from equal.
    """

    network: Network
    wide: nn.Module
    plan: Plan
    deviation: Deviation


class Compression:
    """One run of the main job: what the phases share, and the phases in order."""

    network: Network
    data: Data
    teacher: nn.Module | None
    coupling: Coupling
    target: Target
    widths: list[dict[str, int]]  # after each stage; empty for a single stage
    times: LatencyTable | None  # that widths go by, if they do
    plan: Plan | None  # of a single stage: the given one, or one that shows that the target is possible

    def __init__(self, job: Job, device: torch.device, ranks: Ranks) -> None:
        self.job, self.device, self.ranks = job, device, ranks
        self.clock = Clock(loud=job.progress is not False)
        self.output: OutputFolder | None = None
        self.reads: dict[str, str] = {}

    def run(self) -> Result:
        """Run all phases: all processes train, then the first one trims, checks and writes.

        The others wait for its result.
        """
        with ExitStack() as stack:
            self.ranks.share(lambda: self.claim_output(stack))
            self.prepare()
            checkpoints = open_phases(self.job, self.network.model, self.data, self.ranks)
            with checkpoints.stoppable(), self.results_aside() as folder:
                with self.recorded(checkpoints) as trainer:
                    wide = self.train_wide(trainer, folder)
                    trained = self.train_csgd(trainer, wide)
                if folder is not None:
                    checkpoints.publish(folder)
                result = self.ranks.share(lambda: self.conclude(trained, folder))
                if folder is not None:
                    write_result(result, folder)
            if self.ranks.first:
                checkpoints.remove()
        return result

    def claim_output(self, stack: ExitStack) -> None:
        """Lock the output folder until the stack is closed, and check that no user's file is there."""
        self.reads = files_read(self.job)
        check_input_stays(self.job)
        self.output = stack.enter_context(output_folder(self.job.output))
        check_target(self.output.target, RESULTS)
        check_checkpoints(self.job.output)

    def results_aside(self) -> AbstractContextManager[Path | None]:
        """Make the temporary folder of the first process, until all results appear at once."""
        return nullcontext() if self.output is None else self.output.aside(RESULTS, self.reads)

    def prepare(self) -> None:
        """Build network and data, and couple channels; an impossible target fails before training."""
        job = self.job
        with self.clock("build", f"{named(job.model)} for {named(job.data)}"), self.ranks.one_per_machine_first():
            self.network, self.data = prepare(job, self.device)
            self.teacher = teacher_from_file(job, self.network, self.data, self.device)
        with self.clock("couple"):
            self.coupling = couple(self.network.model, self.network.example, outputs=self.job.outputs)
            check_batches(self.coupling.batch, self.data.test)
            check_writable(self.coupling.graph_module, as_inputs(self.network.example))
            self.widths = [] if job.stages is None else widths_of_stages(job.only_of(Target), job.stages, self.coupling)
            self.target = target_of(job, self.network, self.coupling, self.data)
            self.plan, self.times = None, None
            if job.plan_file is not None:
                self.plan = load_plan(job.plan_file, self.network.model)
            elif not self.widths:
                # One process measures, once: times differ a little from run to run.
                self.times = self.ranks.share(
                    lambda: kept_times(job, self.coupling) or times_for(self.target, self.coupling)
                )
                # The clusters need trained weights.
                self.plan = plan_to(self.target, self.coupling, method="even", times=self.times)
            last = self.plan or make_plan(self.coupling, widths=self.widths[-1], method="even")
            check_narrow(last, self.network.model, self.data.test)

    @contextmanager
    def recorded(self, checkpoints: Checkpoints) -> Iterator[Trainer]:
        """Begin or continue the records of training."""
        job, fresh = self.job, bool(self.network.fresh)
        steps = (wide_schedule(job, fresh=fresh).steps(self.data), csgd_schedule(job).steps(self.data))
        stages = most_stages(job.stages)
        with open_journal(checkpoints, *steps, stages=stages, tensorboard=job.tensorboard) as journal:
            if self.ranks.first:
                write_recipe(job, checkpoints.folder / RECIPE)
                checkpoints.keep_times(self.times)
            more: dict[str, Any] = {"fresh": fresh, "checkpoints": checkpoints, "journal": journal, "clock": self.clock}
            yield Trainer.of(job, self.data, self.device, **more)

    def train_wide(self, trainer: Trainer, folder: Path | None) -> nn.Module:
        """Train the wide network, and return a copy, which is among the results."""
        with self.clock("train", "the wide network"):
            trainer.train_wide(self.network.model, self.teacher)
            wide = copy.deepcopy(self.network.model)
            if folder is not None:
                save_weights(wide, folder / WIDE)
        if self.job.teacher == "wide":
            self.teacher = wide
        return wide

    def train_csgd(self, trainer: Trainer, wide: nn.Module) -> Trained:
        """Cluster the filters, and train until those of a cluster are equal, at once or in stages."""
        network, target, checkpoints = self.network, self.target, trainer.checkpoints
        assert checkpoints is not None
        if self.plan is None:
            done = narrow_in_stages(trainer, network, self.coupling, self.widths, target, self.teacher)
            return Trained(replace(network, model=done.model), wide, done.plan, done.deviation)
        with self.clock("plan"):
            plan = self.plan
            if self.job.plan_file is None:
                plan = checkpoints.plan(self.coupling, self._plan)
        with self.clock("csgd", "until clusters are equal"):
            deviation = trainer.train_csgd(network.model, plan, self.teacher)
        return Trained(network, wide, plan, deviation)

    def conclude(self, trained: Trained, folder: Path | None) -> Result:
        """Trim, verify, export and measure the trained network."""
        assert folder is not None
        plan, example = trained.plan, trained.network.example
        plan.save(folder / PLAN)
        with self.clock("settle", "running statistics, where they are behind"):
            settled = settle_statistics(trained.network.model, plan, self.data, self.job.seed)
        with self.clock("trim", "snap, merge, rewrite"):
            nets = trim(trained.wide, trained.network.model, plan)
            save_weights(nets.snapped, folder / SNAPPED)
        with self.clock("verify", "narrow against snapped wide, in float64 and on the test images"):
            check_equal(nets, trained.deviation, self.data)
            snap_changed = check_snap(nets, self.data)
            report = check_trim(nets, plan, self.data)
            nets.narrow.meta["preprocessing"] = preprocessing_of(self.data)
            weights = write_network(nets.narrow, folder, model=trained.network.spec, plan=plan)
            if trained.network.spec is None:
                write_wide_graph(plan, folder)
        with self.clock("repair", "the merge without C-SGD, for comparison"):
            repaired = repaired_merge(trained.wide, plan, self.data, self.job.seed)
        with self.clock("export", "ONNX, checked in onnxruntime"):
            exported = export_onnx(nets.narrow, example, folder / ONNX, opset=self.job.opset)
        with self.clock("measure"):
            measured = measure_rows(nets, repaired, example, self.data, folder)
        record(self.job, plan, exported, measured.answers, folder)
        return Result(
            stages=measured.rows,
            pairs=measured.pairs,
            output=Path(self.job.output),
            deviation=trained.deviation.largest,
            median_deviation=trained.deviation.median,
            snap_change=nets.snap_change,
            snap_changed=snap_changed,
            settled=settled,
            max_rel_error=report.max_rel_error,
            onnx_rel_error=exported.max_rel_error,
            opset=exported.opset,
            metric=self.data.task.name,
            higher_is_better=self.data.task.rises,
            widths=plan.widths,
            seconds=self.clock.seconds,
            options=self.job.options(),
            versions=versions(),
            weights=weights,
        )

    def _plan(self) -> Plan:
        return plan_to(self.target, self.coupling, images_for(self.target, self.data), times=self.times)
