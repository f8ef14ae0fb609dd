"""Merge clusters: once the members of a cluster are equal, one of them replaces all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.coupling import Coupling
from fxprune.plans import Plan
from fxprune.pytorch.modules import map_tensors, named_tensors, names_of_caches
from fxprune.pytorch.network import network_of

from .clusters import Clusters, cluster_sum, in_float64
from .snap import check_cut, cuts_of, snap, snapped_rows


def concentrate(model: nn.Module, plan: Plan) -> nn.Module:
    """Snap the network and sum the columns of each cluster on its kept column, in float64.

    The cluster's other columns become zero. With W' for the new matrix, W x = W' x for every x whose members of a
    cluster are equal. If the outputs are not those of ``snap(model, plan)``, the coupling is wrong.

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
        with torch.no_grad():
            tensors[name].copy_(_summed(tensors[name], cuts))
    return wide


def merged_state(model: nn.Module, plan: Plan) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the kept state of the merged model, made tensor by tensor, and the changes.

    It needs no more memory than its result and some copies of one tensor, unless the model computes weights.
    """
    if plan.coupling.functions:
        wide: Any = concentrate(model, plan)
        return kept_state(wide, plan), wide.changes
    model = network_of(model)
    check_cut(model, plan)
    tensors = dict(named_tensors(model))
    kept = _kept(plan, tensors)
    tied, read = (
        {id(tensors[name]): (name, cuts) for name, cuts in cuts_of(plan, tensors, tied=rows).items()}
        for rows in (True, False)
    )
    merged: dict[int, Tensor] = {}
    changes: dict[str, float] = {}
    for tensor in tensors.values():
        if (key := id(tensor)) in merged:
            continue
        rows, stays = tensor.detach(), kept.get(key, {})
        if key in tied:
            name, cuts = tied[key]
            rows, changes[name] = snapped_rows(rows, cuts)
            # A sum of columns in some rows is not changed by the rows that go.
            rows = _select(rows, {cut.dim: stays[cut.dim] for cut in cuts})
            stays = {dim: mask for dim, mask in stays.items() if dim not in {cut.dim for cut in cuts}}
        if key in read:
            rows = _summed(rows, read[key][1])
        rows = _select(rows, stays)
        merged[key] = rows if rows.data_ptr() != tensor.data_ptr() else rows.clone()
    return {name: merged[id(tensor)] for name, tensor in tensors.items()}, changes


def _summed(tensor: Tensor, cuts: list[Clusters]) -> Tensor:
    """Put the sum of each cluster's columns on its kept column; the others become zero."""

    def summed(columns: Tensor) -> Tensor:
        for cut in cuts:
            columns = torch.zeros_like(columns).index_copy_(cut.dim, cut.kept, cluster_sum(columns, cut))
        return columns

    return in_float64(summed, tensor.detach(), cuts)


def kept_state(concentrated: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Select the kept positions of the concentrated tensors: they are the narrow tensors.

    For each cluster that is one row, and the sum of the columns.

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
    """Return the captured graph with a model's tensors and with stored computed weights."""
    tensors = dict(named_tensors(model))
    tensors |= {name: _computed(function, tensors) for name, function in coupling.functions.items()}
    caches = names_of_caches(model)

    def of_model(name: str, tensor: Tensor) -> Tensor:
        # The trace makes constants that are not tensors of the model, and a call may have kept what it computed in a
        # buffer of another size: the graph starts where the example did.
        found = tensors.get(name, tensor)
        return (tensor if name in caches and found.shape != tensor.shape else found).detach()

    module = map_tensors(coupling.graph_module, of_model)
    assert isinstance(module, fx.GraphModule)
    return module


@torch.no_grad()
def _computed(function: fx.GraphModule, tensors: dict[str, Tensor]) -> Tensor:
    weight = map_tensors(function, lambda name, tensor: tensors.get(name, tensor).detach())()
    assert isinstance(weight, Tensor)
    return weight
