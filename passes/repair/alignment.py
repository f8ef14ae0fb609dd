"""Scale rows so that the batch normalisation behind has one factor for a whole cluster.

In eval mode the normalisation multiplies row i by ``a_i = weight_i / sqrt(var_i + eps)``. If a merge took the means of
rows and of factors one by one, it would take the mean of what the layers compute only where all a_i agree. So the row
is multiplied by ``s_i = a_i / a`` first, with ``a`` the size of the a_i of its cluster; that changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from fxprune.passes.merge import on_device, project
from fxprune.plans import Partition, Plan
from fxprune.pytorch.layer_sizes import is_transposed
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.torch_private import BatchNorm, ConvNd


@torch.no_grad()
def align_norms(model: nn.Module, plan: Plan, *, correct: bool = False) -> int:
    """Scale rows and batch normalisations in place; in eval mode the network computes the same.

    Args:
        model: the wide network.
        plan: its clusters.
        correct: also set each running variance to that of the mean of the rows, if inputs were white: smaller by
            |mean of the rows|^2 / mean of |row|^2. Then the network does not compute the same any more.

    Returns:
        How many normalisations were aligned.
    """
    tied = {(p.parameter, p.dim): p for p in plan.partitions() if p.tied}
    tensors = dict(named_tensors(model))
    count = 0
    for layer, norm in _pairs(plan.coupling.graph_module):
        axis = 1 if is_transposed(plan.coupling.graph_module.get_submodule(layer)) else 0
        partition = tied.get((f"{layer}.weight", axis))
        if partition is None or f"{layer}.weight" not in tensors or f"{norm}.weight" not in tensors:
            continue
        if _clusters(tied.get((f"{norm}.weight", 0))) == _clusters(partition):
            if correct:
                _correct(tensors[f"{layer}.weight"], tensors[f"{norm}.running_var"], axis, partition)
            else:
                _align(tensors, (layer, norm), axis, partition, plan.coupling.graph_module.get_submodule(norm))
            count += 1
    return count


def _clusters(partition: Partition | None) -> list[int] | None:
    return None if partition is None else partition.cluster.tolist()


def _align(
    tensors: dict[str, Tensor], names: tuple[str, str], axis: int, partition: Partition, module: nn.Module
) -> None:
    layer, norm = names
    weight, mean, var = (tensors[f"{norm}.{name}"] for name in ("weight", "running_mean", "running_var"))
    cluster = torch.as_tensor(partition.cluster, device=weight.device)
    count = torch.bincount(cluster).double()
    eps = float(module.eps)  # type: ignore[arg-type]

    def average(x: Tensor) -> Tensor:
        return (torch.zeros_like(count).index_add_(0, cluster, x) / count)[cluster]

    factor = weight.double() / (var.double() + eps).sqrt()
    size = average(factor.square()).sqrt()
    scale = torch.where(size > 0, factor / size, 1.0)
    variance = average(var.double() * scale.square())
    kernel = tensors[f"{layer}.weight"]
    kernel.mul_(scale.to(kernel.dtype).view([-1 if d == axis else 1 for d in range(kernel.dim())]))
    bias = tensors.get(f"{layer}.bias")
    if bias is not None:
        bias.mul_(scale.to(bias.dtype))
    mean.mul_(scale.to(mean.dtype))
    var.copy_(variance)
    weight.copy_(torch.where(size > 0, size * (variance + eps).sqrt(), weight.double()))


def _correct(kernel: Tensor, var: Tensor, axis: int, partition: Partition) -> None:
    rows = kernel.movedim(axis, 0).flatten(1).double()
    cut = replace(on_device(partition, kernel.device), dim=0)
    count = cut.count[cut.cluster]
    sizes = rows.square().sum(1, keepdim=True).sqrt().clamp_min(1e-300)
    alike = project(rows / sizes, [cut]).square().sum(1)  # (1 + (m - 1) cosine) / m
    cosine = ((count * alike - 1) / (count - 1).clamp_min(1)).clamp(0, 1)
    # One cosine for the whole layer: that of a single small cluster is mostly noise.
    mean = cosine[count > 1].mean() if bool((count > 1).any()) else cosine.new_ones(())
    var.mul_(((1 + (count - 1) * mean) / count).to(var.dtype))


def _pairs(module: fx.GraphModule) -> Iterator[tuple[str, str]]:
    """Yield layers whose whole output one batch normalisation reads, and that both run once."""
    calls: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    owners: dict[int, int] = {}
    for _, tensor in named_tensors(module):
        owners[id(tensor)] = owners.get(id(tensor), 0) + 1
    for node in module.graph.nodes:
        if node.op != "call_module" or calls[str(node.target)] > 1 or not node.args:
            continue
        norm = module.get_submodule(str(node.target))
        maker = node.args[0]
        if not isinstance(norm, BatchNorm) or norm.weight is None or norm.running_var is None:
            continue
        if not isinstance(maker, fx.Node) or maker.op != "call_module" or len(maker.users) > 1:
            continue
        layer = module.get_submodule(str(maker.target))
        grouped_transposed = is_transposed(layer) and getattr(layer, "groups", 1) > 1
        if calls[str(maker.target)] > 1 or not isinstance(layer, (ConvNd, nn.Linear)) or grouped_transposed:
            continue
        if all(owners[id(tensor)] == 1 for each in (layer, norm) for _, tensor in named_tensors(each)):
            yield str(maker.target), str(node.target)
