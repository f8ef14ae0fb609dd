"""Reverse a merge: make a wide network that computes what a narrow one does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxprune.errors import PlanError
from fxprune.plan_file import meta_of
from fxprune.plans import Partition, Plan
from fxprune.pytorch.modules import map_tensors, named_tensors


def expand(model: nn.Module, narrow: nn.Module, plan: Plan) -> nn.Module:
    """Make a wide copy whose trim by ``plan`` gives ``narrow`` back, bit for bit.

    Each row of the narrow network is repeated for all members of its cluster. Each column goes to the kept member and
    the other members get zeros, so that the trim adds only zeros to it.

    Args:
        model: the wide network; it is not changed. Tensors that the narrow network lacks, as those of unused layers,
            are copied from it.
        narrow: made from such a network by ``plan``, or by plans that compose to it, and trained further or not.
        plan: clusters of ``model``.

    Raises:
        PlanError: a tensor of ``narrow`` has another shape than the plan demands, or its weights hold factors of heads.
    """
    if meta_of(narrow).get("absorbed"):
        raise PlanError(
            "the narrow network holds factors of its heads in weights: make it by narrow(..., absorb=False)."
        )
    partitions: dict[str, list[Partition]] = {}
    for partition in plan.partitions():
        partitions.setdefault(partition.parameter, []).append(partition)
    tensors = dict(named_tensors(narrow))

    def lifted(name: str, tensor: Tensor) -> Tensor:
        cuts = partitions.get(name, [])
        if name not in tensors and not cuts:
            return tensor.detach().clone()
        value = tensors[name].detach() if name in tensors else None
        narrow_shape = list(tensor.shape)
        for cut in cuts:
            narrow_shape[cut.dim] = len(cut.kept)
        if value is None or list(value.shape) != narrow_shape:
            found = "absent" if value is None else list(value.shape)
            raise PlanError(f"`{name}` is {found} in the narrow network, and {narrow_shape} by the plan.")
        for cut in cuts:
            value = _spread(value, cut)
        return value.clone()

    return map_tensors(model, lifted)


def _spread(value: Tensor, cut: Partition) -> Tensor:
    if cut.tied:
        return value.index_select(cut.dim, torch.as_tensor(cut.cluster, device=value.device))
    shape = list(value.shape)
    shape[cut.dim] = len(cut.cluster)
    return value.new_zeros(shape).index_copy_(cut.dim, torch.as_tensor(cut.kept, device=value.device), value)
