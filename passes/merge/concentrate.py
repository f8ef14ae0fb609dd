"""Merge clusters: once the members of a cluster are equal, one of them replaces all."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from fxprune.common.modules import map_tensors, named_tensors
from fxprune.coupling import Coupling
from fxprune.plans import Plan

from .clusters import cluster_sum
from .snap import cuts_of, snap


def concentrate(model: nn.Module, plan: Plan) -> nn.Module:
    """Snap the network and sum the columns of each cluster on its kept column, in float64.

    The cluster's other columns become zero. With W' for the new matrix, W x = W' x for every x whose members of a
    cluster are equal. If the outputs are not those of ``snap(model, plan)``, the coupling is wrong.

    Args:
        model: the network; it is not changed.
        plan: its clusters.

    Returns:
        A snapped copy of the same widths: of the same class, or the captured graph if the model computes weights. Its
        ``changes`` and ``max_change`` are those of the snap.

    Raises:
        PlanError: the plan was made for another network.
    """
    wide = snapped = snap(model, plan)
    if plan.coupling.functions:  # the columns to sum are those of the computed weight
        wide = captured_with(plan.coupling, snapped)
        vars(wide).update(changes=snapped.changes, max_change=snapped.max_change)
    tensors = dict(named_tensors(wide))
    for name, cuts in cuts_of(plan, tensors, tied=False).items():
        columns = tensors[name].detach().double()
        for cut in cuts:
            columns = torch.zeros_like(columns).index_copy_(cut.dim, cut.kept, cluster_sum(columns, cut))
        with torch.no_grad():
            tensors[name].copy_(columns)
    return wide


def kept_state(concentrated: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Select the kept positions of the concentrated tensors: they are the narrow tensors.

    For each cluster that is one row, and the sum of the columns.

    Args:
        concentrated: the network that :func:`concentrate` returned for the plan.
        plan: its clusters.

    Returns:
        Name -> tensor, for all names of parameters and buffers, non-persistent buffers included. A computed weight
        stands under its own name, in place of the tensors that it is computed from. A tensor with two names is the
        same object under both.
    """
    kept = _kept(plan, dict(named_tensors(concentrated)))
    merged: dict[int, Tensor] = {}
    state = {}
    for name, tensor in dict(named_tensors(concentrated)).items():
        if id(tensor) not in merged:
            merged[id(tensor)] = _select(tensor.detach(), kept.get(id(tensor), {}))
        state[name] = merged[id(tensor)]
    return state


def _kept(plan: Plan, tensors: dict[str, Tensor]) -> dict[int, dict[int, Tensor]]:
    """Mark the positions that stay: id of a tensor -> axis -> bool [length].

    The key is the id, since a tensor may have several names.
    """
    stays: dict[int, dict[int, Tensor]] = {}
    for partition in plan.partitions():
        if partition.parameter not in tensors and plan.coupling.functions:
            continue  # a computed weight replaces it
        tensor = tensors[partition.parameter]
        mask = torch.zeros(tensor.shape[partition.dim], dtype=torch.bool)
        mask[partition.kept] = True
        axes = stays.setdefault(id(tensor), {})
        axes[partition.dim] = axes.get(partition.dim, mask) & mask
    return stays


def _select(tensor: Tensor, stays: dict[int, Tensor]) -> Tensor:
    for dim, mask in stays.items():
        tensor = tensor.index_select(dim, mask.nonzero().flatten().to(tensor.device))
    return tensor


def captured_with(coupling: Coupling, model: nn.Module) -> fx.GraphModule:
    """Return the captured graph with a model's tensors and with stored computed weights.

    Args:
        coupling: the analysis.
        model: the analysed network, or another instance of it.
    """
    tensors = dict(named_tensors(model))
    tensors |= {name: _computed(function, tensors) for name, function in coupling.functions.items()}
    # The trace makes constants that are not tensors of the model.
    module = map_tensors(coupling.graph_module, lambda name, tensor: tensors.get(name, tensor).detach())
    assert isinstance(module, fx.GraphModule)
    return module


@torch.no_grad()
def _computed(function: fx.GraphModule, tensors: dict[str, Tensor]) -> Tensor:
    weight = map_tensors(function, lambda name, tensor: tensors.get(name, tensor).detach())()
    assert isinstance(weight, Tensor)
    return weight
