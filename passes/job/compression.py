"""The main job: a network and data go in, a narrow network that was proven and exported comes out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxprune.analysis import couple
from fxprune.coupling import Coupling
from fxprune.models_zoo import Network, named_device, on_device
from fxprune.models_zoo.data import preprocessing_of
from fxprune.passes.csgd import Deviation
from fxprune.passes.onnx import export_onnx
from fxprune.passes.options import Job, Target, with_options_of
from fxprune.passes.report import Result, draw_deviation
from fxprune.passes.store import (
    ONNX,
    PLAN,
    RESULTS,
    ROWS,
    SNAPPED,
    SUMMARY,
    WIDE,
    OutputFolder,
    check_place,
    output_folder,
    save_weights,
    write_network,
)
from fxprune.passes.train import Ranks, joined
from fxprune.plan_file import load_plan
from fxprune.plans import Plan

from .clock import Clock
from .finished import finished
from .journal import Journal, open_journal
from .measure import measure_stages, versions
from .prepare import prepare, target_of, teacher_from_file
from .resume import Phases, check_checkpoints, files_read, open_phases
from .stages import most_stages, narrow_in_stages, widths_of_stages
from .training import train_csgd, train_wide
from .trim import check_equal, check_snap, check_trim, settle_statistics, trim

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


@with_options_of(Job)
def compress(model: str | nn.Module, data: str | Data, **options: Any) -> Result:
    """After the trim not one test image has another class than in the snapped wide network, or this raises.

    Build the network and train it if it has no weights for this data; find coupled channels and cluster them; train
    with C-SGD until clusters are equal; snap, merge and rewrite; verify in float64; export to ONNX and check that in
    onnxruntime; write everything to a folder, from which ``fxprune.load`` takes the narrow network. Under torchrun, all
    processes train and return the same result, and the first one writes. With ``resume``, a job whose results are there
    already is not done again.

    Args:
        model: name of a network, or a network with one input (it is copied).
        data: name of a data set, or a :class:`fxprune.models_zoo.data.Data`.
        **options: options of :class:`fxprune.passes.options.job.Job`: ``keep=0.5``, ``output="out"``, ``epochs=``, ...

    Raises:
        InputError: an option, the model, the data, a plan or a checkpoint cannot be used; nothing is written then.
        VerifyError: narrow and wide network disagree; names the worst group. Or C-SGD has not made the clusters equal,
            so that the trim would not be free. The weights and the plan are kept.
        ExportError: the exported file and the network disagree; names the first value. The file is kept.
        OSError: the results cannot be written.

    Example:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> layers = torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
        >>> net = torch.nn.Sequential(*layers, torch.nn.Linear(64, 10))
        >>> short = dict(epochs=1, csgd_epochs=2, lr=0.01, csgd_lr=0.05, progress=False)  # to be quick, not good
        >>> result = fxprune.compress(net, "digits", keep=0.5, output="out", **short)
        >>> [row.params for row in result.stages if row.name.startswith(("wide, before", "narrow, after"))]
        [810, 410]
    """
    job = Job(model=model, data=data, **options)
    with joined(named_device(job.device)) as ranks:
        if not ranks.first:
            job = replace(job, progress=False)
        found = ranks.share(lambda: finished(job))
        return _compress(job, on_device(job.device), ranks) if found is None else found


@dataclass(frozen=True, eq=False)
class _Trained:
    """What every process has when training is over.

    Attributes:
        network: after C-SGD.
        wide: before it.
        plan: the clusters.
        deviation: what is left in them.
    """

    network: Network
    wide: nn.Module
    plan: Plan
    deviation: Deviation


def _compress(job: Job, device: torch.device, ranks: Ranks) -> Result:
    """All processes train; then the first one trims, checks and writes, and the others wait for its result."""
    clock = Clock(loud=job.progress is not False)
    reads: dict[str, str] = {}
    with ExitStack() as stack:
        output: OutputFolder | None = None

        def enter() -> None:
            nonlocal output
            reads.update(files_read(job))
            output = stack.enter_context(output_folder(job.output))
            check_place(output.target, RESULTS)
            check_checkpoints(job.output)

        ranks.share(enter)
        with clock("build", f"{_named(job.model)} for {_named(job.data)}"), ranks.one_per_machine_first():
            network, images = prepare(job, device)
            teacher = teacher_from_file(job, network, images, device)
        with clock("couple"):
            coupling = couple(network.model, network.example)
            # What cannot be pruned as asked is to fail now, not after the training; clusters wait for the weights.
            goals = widths_of_stages(job, coupling) if job.stages is not None else []
            target = target_of(job, network, coupling, images)
            first = None if goals else _plan_from_file(job, network.model) or target.plan(coupling, method="even")
        phases = open_phases(job, network.model, images, ranks)

        def keep(wide: nn.Module) -> None:
            if folder is not None:
                save_weights(wide, folder / WIDE)

        def conclude() -> Result:
            assert folder is not None
            return _conclude(job, trained, images, folder, clock)

        aside: AbstractContextManager[Path | None] = (
            nullcontext(None) if output is None else output.aside(RESULTS, reads)
        )
        with phases.stoppable(), aside as folder:
            with open_journal(job, images, phases, stages=most_stages(job)) as journal:
                trained = _train(
                    job, network, images, device, coupling, goals, target, first, teacher, phases, journal, clock, keep
                )
            if folder is not None:
                phases.publish(folder)
            result = ranks.share(conclude)
            if folder is not None:
                draw_deviation(folder)
                (folder / ROWS).write_text(result.to_csv(), encoding="utf-8")
                (folder / SUMMARY).write_text(result.to_json(), encoding="utf-8")
        if ranks.first:
            phases.remove()
    return result


def _train(
    job: Job,
    network: Network,
    images: Data,
    device: torch.device,
    coupling: Coupling,
    goals: list[dict[str, int]],
    target: Target,
    first: Plan | None,
    teacher: nn.Module | None,
    phases: Phases,
    journal: Journal,
    clock: Clock,
    keep: Callable[[nn.Module], None],
) -> _Trained:
    """The wide network, which ``keep`` gets at once, then C-SGD in one stage or in several."""
    with clock("train", "the wide network"):
        train_wide(
            job,
            network.model,
            images,
            device,
            teacher=teacher,
            checkpoint=phases.checkpoint("train"),
            on_epoch=journal.wide,
            ranks=phases.ranks,
        )
        wide = copy.deepcopy(network.model)
        keep(wide)
    teacher = wide if job.teacher == "wide" else teacher
    if first is None:
        if job.allocate == "auto":  # the goals so far showed that it can be done; what is lost follows from the weights
            goals = phases.ranks.share(lambda: widths_of_stages(job, coupling))
        done = narrow_in_stages(
            job,
            network.model,
            coupling,
            goals,
            images,
            device,
            example=network.example,
            teacher=teacher,
            phases=phases,
            journal=journal,
            clock=clock,
        )
        return _Trained(replace(network, model=done.model), wide, done.plan, done.deviation)
    with clock("plan"):
        plan = first if job.plan_file is not None else phases.plan(coupling, lambda: target.plan(coupling))
    with clock("csgd", "until clusters are equal"):
        deviation = train_csgd(
            job,
            network.model,
            plan,
            images,
            device,
            teacher=teacher,
            checkpoint=phases.checkpoint("csgd"),
            on_epoch=journal.csgd,
            ranks=phases.ranks,
        )
    return _Trained(network, wide, plan, deviation)


def _conclude(job: Job, trained: _Trained, images: Data, folder: Path, clock: Clock) -> Result:
    """Trim, check, export, measure."""
    network, plan = trained.network, trained.plan
    plan.save(folder / PLAN)
    with clock("settle", "running statistics, where they are behind"):
        settled = settle_statistics(network.model, plan, images, job.seed)
    with clock("trim", "snap, merge, rewrite"):
        nets = trim(trained.wide, network.model, plan)
        save_weights(nets.snapped, folder / SNAPPED)
    with clock("verify", "narrow against snapped wide, in float64 and on the test images"):
        check_equal(nets, trained.deviation, images)
        snap_changed = check_snap(nets, images)
        report = check_trim(nets, plan, images)
        nets.narrow.meta["preprocessing"] = preprocessing_of(images)
        write_network(nets.narrow, folder, model=network.spec, plan=plan)
    with clock("export", "ONNX, checked in onnxruntime"):
        exported = export_onnx(nets.narrow, network.example, folder / ONNX, opset=job.opset)
    with clock("measure"):
        stages = measure_stages(nets, network.example, images, folder)
    return Result(
        stages=stages,
        output=Path(job.output),
        deviation=trained.deviation.largest,
        median_deviation=trained.deviation.median,
        snap_change=nets.snap_change,
        snap_changed=snap_changed,
        settled=settled,
        max_rel_error=report.max_rel_error,
        onnx_rel_error=exported.max_rel_error,
        opset=exported.opset,
        widths=plan.widths,
        seconds=clock.seconds,
        options=job.options(),
        versions=versions(),
    )


def _plan_from_file(job: Job, model: nn.Module) -> Plan | None:
    return None if job.plan_file is None else load_plan(job.plan_file, model)


def _named(given: object) -> str:
    return given if isinstance(given, str) else str(getattr(given, "name", type(given).__name__))
