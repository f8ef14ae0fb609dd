"""Train in several processes with the gradients of the whole batch and with equal weights."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fxprune.arguments.inputs import as_inputs, run_on
from fxprune.common.random import seeded
from fxprune.errors import ProofError
from fxprune.passes.distributed import Ranks
from fxprune.passes.verify import named_outputs
from fxprune.pytorch.torch_private import pytree

from .onednn import contiguous_strided
from .state import digest

_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters
_SYNC = "forward_sync_buffers" if "forward_sync_buffers" in _ARGUMENTS else "broadcast_buffers"  # older torch


def parallel(model: nn.Module, ranks: Ranks, example: Any, device: torch.device) -> nn.Module:
    """Wrap the model to average gradients over processes; a single process gets it unwrapped.

    All processes begin with the weights of the first one.

    Args:
        model: it keeps its parameters and gradients.
        ranks: which process this is.
        example: inputs of two samples, to find parameters that the output does not depend on: no process waits for
            their gradients.
        device: where the model is.
    """
    if ranks.count == 1:
        return model
    sync: dict[str, Any] = {_SYNC: False}  # :func:`sync_buffers` does it, after the step
    return DistributedDataParallel(
        model,
        device_ids=[torch.cuda.current_device()] if device.type == "cuda" else None,
        find_unused_parameters=_leaves_out(model, example, device),
        **sync,
    )


@torch.no_grad()
def sync_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Set floating-point buffers to their mean over the processes, others to the first one's.

    A number that is equal in all processes stays bit for bit as it is.
    """
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for _, buffer in model.named_buffers():
        kinds.setdefault(buffer.dtype, []).append(buffer)
    for dtype, buffers in kinds.items() if ranks.count > 1 else ():
        ours = torch.cat([buffer.flatten() for buffer in buffers])
        mean = ours.clone()
        dist.broadcast(mean, src=0)
        if dtype.is_floating_point:
            mean += ranks.add(torch.where(ours == mean, 0.0, ours - mean)) / ranks.count
        for buffer, value in zip(buffers, mean.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(value.view_as(buffer))


def check_same(model: nn.Module, ranks: Ranks) -> None:
    """Raise ProofError unless all processes hold the same numbers, bit for bit."""
    if ranks.count == 1:
        return
    ours = digest(model)
    found = ranks.gather(ours)
    differ = ranks.share(lambda: [rank for rank, theirs in enumerate(found) if theirs != ours])
    if differ:
        raise ProofError(
            f"after training, the weights of process {differ[0]} are not those of process 0: "
            f"{len(differ)} of {ranks.count} processes differ. This is an error in fxprune, or in a hook that acts on "
            "one process only; no narrow network is made from these weights."
        )


def _leaves_out(model: nn.Module, example: Any, device: torch.device) -> bool:
    """Tell whether the output does not depend on some trainable parameter."""
    trial = copy.deepcopy(model).train()
    parameters = [parameter for parameter in trial.parameters() if parameter.requires_grad]
    given = pytree.tree_map_only(Tensor, lambda x: torch.zeros_like(x, device=device), as_inputs(example))
    with seeded(0), contiguous_strided(device):
        outputs = named_outputs(run_on(trial, given)).values()
        output = sum((x.float().sum() for x in outputs if x.requires_grad), torch.zeros((), device=device))
        gradients = torch.autograd.grad(output, parameters, allow_unused=True)
    return any(gradient is None for gradient in gradients)
