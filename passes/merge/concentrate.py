"""Merge: once the members of a cluster are equal, one of them does the work of all."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from fxprune.common.modules import map_tensors, named_tensors
from fxprune.coupling import Coupling
from fxprune.plans import Plan

from .clusters import cluster_sum
from .snap import cuts_of, snap


def concentrate(model: nn.Module, plan: Plan) -> nn.Module:
    """W x = W' x where the members of a cluster in x are equal: W' has a cluster's columns summed on its kept one.

    The other columns of W' are zero. The outputs must be those of ``snap(model, plan)``, or the coupling is wrong. Sums
    are taken in float64.

    Args:
        model: the network; it is not changed.
        plan: its clusters.

    Returns:
        A snapped copy of the same widths; of the same class, or the captured graph where weights are computed. Its
        ``changes`` and ``max_change`` are those of the snap.

    Raises:
        PlanError: the plan was made for another network.
    """
    wide = snapped = snap(model, plan)
    if plan.coupling.functions:  # columns can only be summed in what is computed
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


def merge_state(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Narrow tensors of a network: :func:`kept_state` of the concentrated one; it is not changed.

    Raises:
        PlanError: the plan was made for another network.
    """
    return kept_state(concentrate(model, plan), plan)


def kept_state(concentrated: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Narrow tensors are the kept positions of the concentrated ones: one row, and the sum of the columns, per cluster.

    Args:
        concentrated: the network that :func:`concentrate` returned for the plan.
        plan: its clusters.

    Returns:
        Parameters and buffers, those that are not saved with a model too, by all their names, and computed weights
        under the name of the stored one instead of what they are computed from; a tensor with two names is the same
        object under both.
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
    """Positions that stay, bool [length] by id of the tensor and axis: by id, since a tensor may have several names."""
    stays: dict[int, dict[int, Tensor]] = {}
    for partition in plan.partitions():
        if partition.parameter not in tensors and plan.coupling.functions:
            continue  # went into a computed weight
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
    """Captured graph of a coupling that shares a model's tensors; weights that the model computes are stored in it.

    Args:
        coupling: the analysis.
        model: the analysed network, or another instance of it.
    """
    tensors = dict(named_tensors(model))
    tensors |= {name: _computed(function, tensors) for name, function in coupling.functions.items()}
    # Constants that tracing made are no tensors of the model.
    module = map_tensors(coupling.graph_module, lambda name, tensor: tensors.get(name, tensor).detach())
    assert isinstance(module, fx.GraphModule)
    return module


@torch.no_grad()
def _computed(function: fx.GraphModule, tensors: dict[str, Tensor]) -> Tensor:
    weight = map_tensors(function, lambda name, tensor: tensors.get(name, tensor).detach())()
    assert isinstance(weight, Tensor)
    return weight
