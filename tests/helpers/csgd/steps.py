"""Plans by hand, steps under any optimizer, and what deviates, worked out with a plain loop."""

from __future__ import annotations

import numpy as np
import torch
from timm.optim import Lamb, Lion
from torch import nn

from fxprune.passes.csgd.hook import csgd
from fxprune.plans import Plan
from helpers.couplings.cases import plain

PLAIN = {"conv1.weight": [0, 1, 0, 2, 1, 3, 0, 0], "conv2.weight": [0, 1, 2, 1, 0, 2]}
SQUARE = {"rows.weight": [0, 1, 1, 0, 2, 1], "columns.weight": [0, 0, 1, 2, 3, 2, 1, 4]}
CHOSEN = ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "conv2.weight")


def plan_of(case, clusters):
    return Plan(case.coupling, {name: np.array(labels) for name, labels in clusters.items()})


def away(model, plan):
    """{(name, dim): rows minus the mean of their cluster}, worked out with a plain loop."""
    parameters, result = dict(model.named_parameters()), {}
    for cut in plan.partitions():
        if cut.tied and cut.parameter in parameters:
            rows = parameters[cut.parameter].detach().movedim(cut.dim, 0).double()
            means = torch.stack([rows[torch.as_tensor(cut.cluster == label)].mean(0) for label in cut.cluster])
            result[cut.parameter, cut.dim] = rows - means
    return result


def backward(model, case, seed):
    """Gradients of a new random loss: they differ within every cluster."""
    inputs = [x + 0.1 * seed for x in case.inputs]
    model.zero_grad()
    out = model(*inputs)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype)).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def started(kind=torch.optim.AdamW, narrow=None, coupled=False, **options):
    torch.manual_seed(0)  # of the inputs: both forms are the same
    case = plain()
    optimizer = kind(case.model.parameters(), lr=0.05, **options)
    hook = csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0, narrow=narrow, coupled=coupled)
    return case, optimizer, hook


def copies(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors}


def steps(model, case, optimizer, count, scheduler=None):
    for seed in range(count):
        backward(model, case, seed)
        optimizer.step()
        if scheduler:
            scheduler.step()


def assert_shrunk(before, after, factor, rtol=1e-9):
    # rtol: float64 rounding of steps that are up to 1e3 times as large as what is left of the deviation.
    for axis, old in before.items():
        torch.testing.assert_close(after[axis], factor * old, rtol=rtol, atol=1e-13)


OPTIMIZERS = {
    "sgd": lambda p, decay: torch.optim.SGD(p, lr=0.05, weight_decay=decay),
    "momentum": lambda p, decay: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=decay),
    "nesterov": lambda p, decay: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=decay),
    "adam": lambda p, decay: torch.optim.Adam(p, lr=0.05, weight_decay=decay),
    "amsgrad, one by one": lambda p, decay: torch.optim.Adam(
        p, lr=0.05, amsgrad=True, foreach=False, weight_decay=decay
    ),
    "adamw": lambda p, decay: torch.optim.AdamW(p, lr=0.05, weight_decay=decay),
    "adafactor": lambda p, decay: torch.optim.Adafactor(p, lr=0.05, weight_decay=decay),
    "lion": lambda p, decay: Lion(p, lr=0.05, weight_decay=decay),
    "lamb": lambda p, decay: Lamb(p, lr=0.05, weight_decay=decay, always_adapt=True),
}
