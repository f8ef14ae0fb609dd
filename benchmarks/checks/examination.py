"""Check one network, from capture to the exported file, and record each fact at once.

A check may be killed at any time, because of its time or memory; the facts recorded before remain.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fxprune
from benchmarks.networks import PREFIX, TimmForm, TorchvisionForm, native_form, small_form, torchvision_form
from fxprune.arguments.batches import admitted, graph_batches
from fxprune.arguments.inputs import Inputs, inputs_for, run_on, tensors_of
from fxprune.costs import cost
from fxprune.coupling import Coupling
from fxprune.errors import AnalysisError, ExportError, NothingToPruneError, RewriteError, VerifyError
from fxprune.passes.merge import concentrate
from fxprune.passes.rewrite import merged_by
from fxprune.passes.verify import random_batch, randomised, scattered
from fxprune.plans import Plan

from .result import FrozenReason

Record = Callable[..., None]

# A reason that costs less than this share of a network's weights is not recorded: every classifier's bias is one.
WORTH_TELLING = 1e-4
# Random images that a network is folded on: enough to fit something, few enough for the largest.
FOLD_IMAGES = 16


@dataclass(frozen=True)
class CheckTask:
    """A network to check."""

    model: str
    depth: str = "onnx"
    most_parameters: float = float("inf")
    threads: int = 1


def check(task: CheckTask, record: Record) -> None:
    """Build a network and examine it."""
    torch.set_num_threads(task.threads)
    record(stage="build")
    form = _form(task)
    record(parameters=form.parameters, image=form.image)
    if form.parameters > task.most_parameters:
        record(too_large=True)
        return
    network = form.outline() if task.depth == "couple" else form.build()
    # The published number may count parts that only training uses.
    record(parameters=sum(parameter.numel() for parameter in network.parameters()))
    if task.depth == "couple":
        record(stage="couple")
        record(**facts_of(fxprune.couple(network, form.example(network))))
    elif task.depth == "fold":
        fold(network, form.example(network), record)
    else:
        examine(network, form.example(network), record, depth=task.depth)


def _form(task: CheckTask) -> TimmForm | TorchvisionForm:
    if task.model.startswith(PREFIX):
        return torchvision_form(task.model)
    return native_form(task.model) if task.depth == "couple" else small_form(task.model)


def examine(network: nn.Module, example: Inputs, record: Record, *, depth: str) -> None:
    """Run both oracles at half width on random weights, and export the narrow network.

    These are the parts of :func:`fxprune.prove`, one by one, to record how far a network came.
    """
    record(stage="couple")
    subject = randomised(network).double()
    inputs = inputs_for(subject, random_batch(example, 2, seed=0))
    coupling = fxprune.couple(subject, inputs)
    record(**facts_of(coupling))
    try:
        plan = scattered(coupling, keep=0.5, seed=0)
    except NothingToPruneError:
        return
    held, clusters = oracles_hold(subject, plan, inputs, record), plan.clusters
    del subject, coupling, plan  # float64 weights are most of the memory
    if not held:
        record(stage="culprits")
        record(culprits=culprits(network, example))
        return
    if depth == "onnx":
        record(stage="onnx")
        record(error_onnx=exported_error(randomised(network), clusters, example))


def oracles_hold(subject: nn.Module, plan: Plan, inputs: Inputs, record: Record) -> bool:
    """Check the analysis to 1e-12 and the rewrite to 1e-9, and record the error if one fails."""
    record(stage="concentrate")
    snapped = fxprune.snap(subject, plan)
    analysis = fxprune.verify(snapped, concentrate(subject, plan), inputs, tolerance=1e-12, batches=())
    if not analysis.passed:
        record(error=f"{AnalysisError.__name__}: {analysis.reason}")
        return False
    record(stage="narrow")
    small = narrow(snapped, plan)
    parameters = sum(parameter.numel() for parameter in small.parameters())
    bound = graph_batches(small, inputs)
    record(parameters_after=parameters, macs_after=cost(plan).macs // len(tensors_of(inputs)[0]), batches=str(bound))
    rewrite = fxprune.verify(snapped, small, inputs, tolerance=1e-9, batches=admitted((1, 3), bound))
    record(error64=rewrite.max_rel_error)
    if not rewrite.passed:
        record(error=f"{RewriteError.__name__}: {rewrite.reason}")
    return rewrite.passed


def narrow(snapped: nn.Module, plan: Plan) -> nn.Module:
    """Narrow without a second analysis, which takes as long as all else.

    The oracle compares what is built.
    """
    return merged_by(plan.of_copy(snapped), snapped)[0]


def exported_error(subject: nn.Module, clusters: Mapping[str, NDArray[np.int64]], example: Inputs) -> float:
    """Return onnxruntime's relative error on the narrow network, made in float32 as by a user."""
    plan = Plan(fxprune.couple(subject, example), clusters)
    small = narrow(fxprune.snap(subject, plan), plan)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        # A batch of one finds accidental broadcasts, three finds a fixed batch size.
        batches = (1, 3)
        try:
            return fxprune.export_onnx(small, example, path, batches=batches).max_rel_error
        except ExportError as error:
            try:
                fxprune.export_onnx(subject, example, path, batches=batches)
            except ExportError:
                raise ExportError(f"{error} The wide network fails alike.") from error
            raise


def fold(network: nn.Module, example: Inputs, record: Record) -> None:
    """Fold at half width on random images; record the error of the outputs before and after.

    Raises:
        VerifyError: an output is no number, or the repair made the error larger.
    """
    record(stage="couple")
    subject = randomised(network)
    coupling = fxprune.couple(subject, example)
    record(**facts_of(coupling))
    try:
        plan = scattered(coupling, keep=0.5, seed=0)
    except NothingToPruneError:
        return
    record(stage="fold")
    small = fxprune.fold(subject, plan, [random_batch(example, FOLD_IMAGES, seed=0)])
    merged, folded = small.meta["errors"]["none"], small.meta["errors"][small.meta["repair"]]
    record(error_merged=merged, error_folded=folded)
    outputs = run_on(small, inputs_for(small, random_batch(example, 3, seed=1)))
    finite = all(torch.isfinite(x).all() for x in tensors_of((outputs,)) if x.is_floating_point())
    if not finite or not folded <= merged:
        raise VerifyError(f"the fold moves the outputs by {folded:.2g}, the bare merge by {merged:.2g}.")


def culprits(network: nn.Module, example: Inputs) -> list[str]:
    """Name the groups that fail alone, with the first node that differs."""
    try:
        proof = fxprune.prove(network, example)
    except Exception as error:  # it needs more memory than the check; still report that the oracle failed
        return [f"not found: {type(error).__name__}: {error}"]
    return [f"{group} at {node}" for group, node in zip(proof.culprits, proof.nodes)]


def facts_of(coupling: Coupling) -> dict[str, Any]:
    """Return the facts of the analysis."""
    weights = sum(parameter.numel() for parameter in coupling.graph_module.parameters())
    frozen = sorted(coupling.frozen, key=lambda reason: -reason.weights)
    return {
        "capture": coupling.graph_module.meta["fxprune_capture"],
        "groups": len(coupling.groups),
        "share": coupling.share_prunable,
        "macs": cost(coupling).macs // len(tensors_of(coupling.example_inputs)[0]),
        "frozen": [
            FrozenReason(reason.weights, reason.why, reason.node, reason.source)
            for reason in frozen
            if reason.weights > WORTH_TELLING * weights
        ],
    }
