"""Fold a network as a job: merge and repair it without labels, verify, export, measure."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from fxprune.analysis import couple
from fxprune.common.versions import versions
from fxprune.models_zoo import Network, on_device
from fxprune.passes.latency import plan_to, times_for
from fxprune.passes.merge import expand, snap
from fxprune.passes.onnx import export_onnx
from fxprune.passes.options import FoldJob, with_options_of, write_recipe
from fxprune.passes.planning import load_plan
from fxprune.passes.repair import Repair, fold
from fxprune.passes.report import FoldSummary, Metrics, Result
from fxprune.passes.rewrite import narrow
from fxprune.passes.store import (
    LATENCY,
    ONNX,
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
from .measure import measure_folded
from .prepare import check_export
from .result_files import record, write_result
from .reuse import check_input_stays, files_read
from .samples import Samples, fold_network, fold_samples
from .trim import Nets, check_trim

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


@with_options_of(FoldJob)
def fold_job(model: str | nn.Module, data: str | Data | None = None, **options: Any) -> Result:
    """Fold a trained network, and write the same folder of results as ``fxprune.compress``.

    No labels and no training: find coupled channels, cluster and merge them, repair the narrow network on images
    (:func:`fxprune.fold`), verify it, export it to ONNX, and measure it. With a data set, its test images measure the
    accuracy; with ``inputs``, images without labels, a quarter of them measures how often both networks agree; without
    images nothing but the cost is measured.

    Args:
        model: name of a network, or a trained network with one input (it is copied).
        data: as of ``fxprune.compress``; None: ``inputs``, or no images.
        **options: options of :class:`fxprune.passes.options.fold.FoldJob`: ``checkpoint="wide.safetensors"``,
            ``keep=0.5``, ``output="out"``, ``inputs=["photos"]``, ...

    Raises:
        InputError: an option, the model, images, a plan or a checkpoint is not usable; then nothing is written.
        VerifyError: the rewrite changed the network (an error in fxprune).
        ExportError: the exported file and the network disagree.
        OSError: the results cannot be written.

    Examples:
        >>> import torch
        >>> from fxprune.passes.job import fold_job
        >>> _ = torch.manual_seed(0)
        >>> layers = torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
        >>> net = torch.nn.Sequential(*layers, torch.nn.Linear(64, 10))  # yours is trained
        >>> result = fold_job(net, "digits", keep=0.5, output="out", images=64, progress=False)
        >>> [row.params for row in result.stages], result.folded.repair
        ([810, 410, 410, 410], 'readers')
    """
    job = FoldJob(model, data, **options)
    return _Folding(job, on_device(job.device)).run()


class _Folding:
    """One run of a fold: what the phases share, and the phases in order."""

    def __init__(self, job: FoldJob, device: torch.device) -> None:
        self.job, self.device = job, device
        self.clock = Clock(loud=job.progress is not False)

    def run(self) -> Result:
        """Run all phases; the results appear at once at the end."""
        reads = files_read(self.job)
        check_input_stays(self.job)
        with ExitStack() as stack:
            output: OutputFolder = stack.enter_context(output_folder(self.job.output))
            check_target(output.target, RESULTS)
            check_export(self.job.opset)
            with self.clock("build", named(self.job.model)):
                network, data, preprocessing = fold_network(self.job, self.device)
            with self.clock("couple"):
                coupling = couple(network.model, network.example)
                check_writable(coupling.graph_module, (network.example,))
            with self.clock("read", "images"):
                samples = fold_samples(self.job, network, data, preprocessing, coupling)
                check_batches(coupling.batch, samples.test)
            with self.clock("plan"):
                if self.job.plan_file is not None:
                    times, plan = None, load_plan(self.job.plan_file, network.model)
                else:
                    times = times_for(self.job, coupling)
                    plan = plan_to(self.job, coupling, samples.cluster, times=times)
                check_narrow(plan, network.model, samples.test)
            nets, small = self.fold(network.model, plan, samples)
            nets.narrow.meta["preprocessing"] = preprocessing
            folder = stack.enter_context(output.aside(RESULTS, reads))
            if times is not None:
                times.save(folder / LATENCY)
            result = self.conclude(network, nets, small, samples, folder)
            write_result(result, folder)
        return result

    def fold(self, wide: nn.Module, plan: Plan, samples: Samples) -> tuple[Nets, fx.GraphModule]:
        """Merge and repair; also make the wide network that computes what the narrow one does."""
        wish = self.job.repair
        with self.clock("fold", "merge and repair"):
            merged = fold(wide, plan, repair="none")
            batches = None if wish in ("none", "variance") else samples.repair
            small = fold(wide, plan, batches, repair=wish, absorb=False)
            snapped = expand(wide, small, plan)
            moved = float(snap(wide, plan).max_change)  # type: ignore[arg-type]
            return Nets(wide, merged, wide, snapped, narrow(snapped, plan), moved), small

    def conclude(self, network: Network, nets: Nets, small: fx.GraphModule, samples: Samples, folder: Path) -> Result:
        """Verify, export and measure the narrow network."""
        plan: Plan = nets.narrow.meta["plan"]
        save_weights(nets.wide, folder / WIDE)
        save_weights(nets.snapped, folder / SNAPPED)
        weights = write_network(nets.narrow, folder, model=network.spec, plan=plan)
        if network.spec is None:
            write_wide_graph(plan, folder)
        write_recipe(self.job, folder / RECIPE)
        with Metrics(folder) as metrics:
            for number, each in enumerate(small.meta["repairs"]):
                metrics.record(phase="fold", epoch=0, step=number, **vars(each))
        with self.clock("verify", "narrow against wide with repeated channels, in float64"):
            report = check_trim(nets, plan, samples)
        with self.clock("export", "ONNX, checked in onnxruntime"):
            exported = export_onnx(nets.narrow, network.example, folder / ONNX, opset=self.job.opset)
        folded = self.folded(small, samples)
        with self.clock("measure"):
            measured = measure_folded(nets, network.example, samples, folder, folded.repair)
        record(self.job, plan, exported, measured.answers, folder)
        return Result(
            stages=measured.rows,
            pairs=measured.pairs,
            output=Path(self.job.output),
            deviation=math.nan,
            median_deviation=math.nan,
            snap_change=nets.snap_change,
            snap_changed=measured.rows[-1].changed,
            settled=0,
            max_rel_error=report.max_rel_error,
            onnx_rel_error=exported.max_rel_error,
            opset=exported.opset,
            widths=plan.widths,
            seconds=self.clock.seconds,
            options=self.job.options(),
            versions=versions(),
            weights=weights,
            folded=folded,
        )

    def folded(self, small: fx.GraphModule, samples: Samples) -> FoldSummary:
        """Describe the repairs."""
        repairs = small.meta["repairs"]
        # What noise lacks is no number of images.
        needed = [] if samples.repair is None else [*small.meta["needed"].values()]
        unfitted = {each.layer: each.note for each in repairs if _keeps_sums(each)}
        return FoldSummary(
            repair=small.meta["repair"],
            wanted=self.job.repair or "readers",
            errors=small.meta["errors"],
            images=samples.count,
            judge=samples.judge,
            fitted=len(repairs) - len(unfitted),
            unfitted=unfitted,
            few=sum(each > samples.count for each in needed),
            needed=max(needed, default=0),
        )


def _keeps_sums(repair: Repair) -> bool:
    """Tell whether a layer keeps its summed columns though something is lacking."""
    return "summed columns" in repair.note or (repair.before > 1e-9 and not repair.after < repair.before)
