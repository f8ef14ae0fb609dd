"""Snap sets the members of every cluster to their mean, so that one of them can replace all."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from fxprune.common.number_checks import check_finite, check_numbers
from fxprune.common.text import listed
from fxprune.errors import CustomGradientWarning
from fxprune.plan_file import StoredPlan, given_plan
from fxprune.plans import Plan, check_shapes
from fxprune.pytorch.modules import copy_module, named_tensors
from fxprune.pytorch.network import network_of
from fxprune.pytorch.torch_private import has_gradient_hooks

from .clusters import Clusters, in_float64, largest_change, on_device, project


def snap(model: nn.Module, plan: Plan | StoredPlan) -> nn.Module:
    """Set every tied row to the mean of its cluster, running statistics included.

    The members of a cluster become bit-identical. This is the only lossy step of a compression; the copy records the
    change.

    Args:
        model: the network; it is not changed.
        plan: its clusters.

    Returns:
        A copy of the same class. ``copy.changes`` maps the name of each tensor to the largest change of one of its
        rows over the root mean square norm of its rows, and ``copy.max_change`` is the largest of these.

    Raises:
        PlanError: the plan was made for another network.
        ModelError: a tensor that the plan cuts holds a NaN or an infinity.

    Warns:
        CustomGradientWarning: parameters have hooks for their gradients, which the copy does not have.

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> plan = fxprune.plan(fxprune.couple(net, images), keep=0.5)
        >>> snapped = fxprune.snap(net, plan)
        >>> len(snapped[0].weight.unique(dim=0))
        4
    """
    model, plan = network_of(model), given_plan(model, plan)
    check_cut(model, plan)
    warn_of_hooks(model, stacklevel=3)
    snapped = copy_module(model)
    tensors = dict(named_tensors(snapped))
    changes = {}
    for name, cuts in cuts_of(plan, tensors, tied=True).items():
        changes[name] = _snap(tensors[name], cuts)
    vars(snapped).update(changes=changes, max_change=max(changes.values(), default=0.0))
    return snapped


def warn_of_hooks(model: nn.Module, *, stacklevel: int) -> None:
    """Warn if hooks may change gradients of parameters, which no copy has."""
    if hooked := [name for name, parameter in model.named_parameters() if has_gradient_hooks(parameter)]:
        warnings.warn(
            f"hooks for the gradients of {listed(hooked)} are not part of the new network: register them there, "
            "or remove them first.",
            CustomGradientWarning,
            stacklevel=stacklevel,
        )


def check_cut(model: nn.Module, plan: Plan) -> None:
    """Check that the plan is for this network, and cuts finite tensors only."""
    check_shapes(plan.coupling.shapes, model, "the plan", plan.cut)
    here = dict(named_tensors(model))
    cut = [(name, here[name]) for name in plan.cut if name in here]
    check_numbers(cut)
    check_finite(cut)


@torch.no_grad()
def _snap(tensor: Tensor, cuts: list[Clusters]) -> float:
    new, change = snapped_rows(tensor, cuts)
    tensor.copy_(new)
    return change


def snapped_rows(tensor: Tensor, cuts: list[Clusters]) -> tuple[Tensor, float]:
    """Return the tensor with its rows at the mean of their cluster, and the largest change."""
    new = in_float64(lambda rows: project(rows, cuts), tensor, cuts)
    return new, max(float(largest_change(tensor, new, cut.dim)) for cut in cuts)


def cuts_of(plan: Plan, tensors: dict[str, Tensor], *, tied: bool) -> dict[str, list[Clusters]]:
    """Map each tensor name to its cut axes, tied ones or readers, on the tensor's device."""
    cuts: dict[str, list[Clusters]] = {}
    for partition in plan.partitions():
        if partition.tied == tied:
            cuts.setdefault(partition.parameter, []).append(on_device(partition, tensors[partition.parameter].device))
    return cuts
