"""C-SGD needs unsharded parameters that model and optimizer hold; it rejects all others."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from fxprune.errors import OptionError, PlanError
from fxprune.plans import Plan
from fxprune.pytorch.torch_private import is_flat_parameter, is_fully_sharded, tensor_tables

from .tied import Tied

_INSTEAD = (
    "The rows of a cluster lie in different processes then, and cannot be averaged here. Wrap the model in "
    "DistributedDataParallel instead; where memory is short, torch's ZeroRedundancyOptimizer shards the state of the "
    "optimizer alone."
)


def check_not_sharded(model: nn.Module, optimizer: Optimizer) -> None:
    """Raise OptionError if the model or the optimizer has a sharded parameter (FSDP, DTensor)."""
    flat = [name for name, module in model.named_modules() if is_fully_sharded(module)]
    if flat:
        raise OptionError(
            f"C-SGD cannot be hooked into a model under FullyShardedDataParallel, here `{flat[0] or 'the model'}`. "
            + _INSTEAD
        )
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [
        (named.get(id(parameter), f"a parameter in group {index} of the optimizer"), parameter)
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    ]
    for where, parameter in [*held, *model.named_parameters()]:
        if (kind := sharded_as(parameter)) is not None:
            raise OptionError(f"C-SGD cannot be hooked into `{where}`, which is {kind}. {_INSTEAD}")


def check_same_plan(model: nn.Module, plan: Plan) -> None:
    """Raise PlanError if the processes under DistributedDataParallel have different plans.

    All processes must call this. With different plans, each would pull its own clusters together, and their weights
    would drift apart silently.
    """
    wrapped = next((module for module in model.modules() if isinstance(module, DistributedDataParallel)), None)
    if wrapped is None:
        return
    ours = {name: cluster.tolist() for name, cluster in plan.clusters.items()}
    plans: list[dict[str, list[int]]] = [{}] * dist.get_world_size(wrapped.process_group)
    dist.all_gather_object(plans, ours, group=wrapped.process_group)
    for rank, theirs in enumerate(plans):
        differ = [name for name in {**plans[0], **theirs} if plans[0].get(name) != theirs.get(name)]
        if differ:
            raise PlanError(
                f"process {rank} has another plan than process 0: {len(differ)} groups differ, first `{differ[0]}`. "
                "Make the plan in one process, save it, and load it in all."
            )


def sharded_as(parameter: torch.Tensor) -> str | None:
    """Name the kind of a sharded tensor, else None: FSDP1 has flat parameters, others DTensors."""
    if is_flat_parameter(parameter):
        return "part of a FlatParameter of FullyShardedDataParallel"
    if hasattr(parameter, "device_mesh") and hasattr(parameter, "placements"):
        return f"a DTensor placed as {parameter.placements} (fully_shard or tensor parallelism)"
    return None


def check_in_model(tied: Iterable[Tied]) -> None:
    """Raise OptionError if the model lost a parameter; a layer may be in a wrapper by now."""
    moved = [each for each in tied if not each.is_in_place()]
    tops = {id(top): top for each in moved for top, *_ in each.slots[:-1][:1]}
    layers = (layer for top in tops.values() for each in top.values() if each is not None for layer in each.modules())
    tables = {id(tensor_tables(layer)[0]) for layer in layers}
    gone = next((each.name for each in moved if not each.is_in_one_of(tables)), None)
    if gone is not None:
        raise OptionError(
            f"something has replaced `{gone}` in the model since C-SGD was hooked into the optimizer, so that the "
            "steps would move a parameter that the network no longer reads. Call `remove()`, make the optimizer anew, "
            "and then call `csgd`."
        )


def check_in_optimizer(tied: Iterable[Tied], optimizer: Optimizer) -> None:
    """Raise OptionError if the optimizer holds a parameter no longer, or in another group."""
    held = {parameter: index for index, group in enumerate(optimizer.param_groups) for parameter in group["params"]}
    for each in tied:
        if each.parameter not in held:
            raise OptionError(
                f"the optimizer no longer holds `{each.name}`, so that C-SGD would pull what is not trained: something "
                "has replaced its parameters since, such as a sharding of the model. Call `csgd` after that; if the "
                f"parameters are sharded, it says so. {_INSTEAD}"
            )
        if (index := held[each.parameter]) != each.group:
            raise OptionError(
                f"`{each.name}` has moved from parameter group {each.group} of the optimizer to group {index} since "
                "C-SGD was hooked into it: call `remove()`, and then `csgd` again."
            )
