"""Train with C-SGD and trim, and record the losses; also cluster by the pacesetter alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

import fxprune
from fxprune.coupling import Coupling
from fxprune.passes.csgd import Csgd
from fxprune.passes.planning import kmeans
from fxprune.plans import Plan
from fxprune.pytorch.modules import float64_copy

from .bench import Bench
from .train import Loss, cross_entropy, score


def pull(train: Callable[..., object], model: nn.Module, plan: Plan, deviation: float) -> float:
    """Train by ``train(hook=)`` with C-SGD; return the largest deviation of a cluster."""
    hooks: list[Csgd] = []

    def hook(optimizer: Optimizer, rates: Sequence[float]) -> Csgd:
        hooks.append(fxprune.csgd(model, plan, optimizer, deviation=deviation, lrs=rates))
        return hooks[0]

    train(hook=hook)
    return hooks[0].deviation().largest


def squeeze(
    bench: Bench, model: nn.Module, plan: Plan, epochs: float, *, phase: int, loss: Loss = cross_entropy
) -> nn.Module:
    """Train with C-SGD and trim; record the accuracy around the trim, and changed classes."""
    train = functools.partial(bench.train, model, epochs, phase=phase, loss=loss)
    deviation = pull(train, model, plan, bench.task.settings.deviation)
    snapped = fxprune.snap(model, plan)
    small = fxprune.narrow(snapped, plan)
    before, even, trimmed = (score(network, bench.data) for network in (model, snapped, small))
    bench.trims.append((even.changed(trimmed), error64(bench, snapped, plan)))
    bench.record(
        before=before.top1,
        trimmed=trimmed.top1,
        changed=sum(changed for changed, _ in bench.trims),
        changed_by_snap=before.changed(even),
        deviation=deviation,
        snap_change=float(snapped.max_change),  # type: ignore[arg-type]
        error64=max(error for _, error in bench.trims),
    )
    return small


def error64(bench: Bench, snapped: nn.Module, plan: Plan) -> float:
    """Return max |narrow - snapped| / max |snapped| of the outputs, in float64."""
    double = float64_copy(snapped)
    example = torch.empty_like(plan.coupling.example_inputs[0], dtype=torch.float64)
    small = fxprune.narrow(double, Plan(fxprune.couple(double, example), plan.clusters))
    images = next(iter(bench.data.test))[0][:8]
    # Sums of a million float64 terms keep 1e-12; a wrong coupling moves an output by 1e-3 and more.
    return fxprune.verify(double, small, images, tolerance=1e-9).max_rel_error


def pacesetter(coupling: Coupling, keep: float, seed: int) -> Plan:
    """Cluster by k-means on the rows of each group's first tied parameter, not on all of them."""
    model = coupling.model()
    assert model is not None
    clusters = {}
    for name, (before, after) in fxprune.plan(coupling, keep, method="even").widths.items():
        axis = coupling.groups[name].tied[0]
        rows = model.get_parameter(axis.parameter).detach().double().movedim(axis.dim, 0)
        points = rows[torch.as_tensor(axis.positions)].reshape(before, -1).numpy()
        if after < before:
            clusters[name] = np.asarray(kmeans(points, after, seed), dtype=np.int64)
    return Plan(coupling, clusters, "kmeans on the pacesetter", seed)
