"""A network in several processes: gradients are those of the whole batch, and after each step all hold the same."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fxprune.common.random import seeded
from fxprune.errors import ProofError

from .onednn import contiguous_strided
from .ranks import Ranks
from .state import digest

_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters
_SYNC = "forward_sync_buffers" if "forward_sync_buffers" in _ARGUMENTS else "broadcast_buffers"  # older torch


def parallel(model: nn.Module, ranks: Ranks, example: Tensor) -> nn.Module:
    """What is to be called for gradients that are averaged over the processes; alone, the model itself.

    All begin with the numbers of the first process.

    Args:
        model: in which parameters and gradients stay.
        ranks: which process this is.
        example: [2, C, H, W] on the model's device, to find parameters that take no part: nobody is to wait for their
            gradients.
    """
    if ranks.count == 1:
        return model
    sync: dict[str, Any] = {_SYNC: False}  # :func:`sync_buffers` does it, after the step
    return DistributedDataParallel(
        model,
        device_ids=[torch.cuda.current_device()] if example.device.type == "cuda" else None,
        find_unused_parameters=_leaves_out(model, example),
        **sync,
    )


@torch.no_grad()
def sync_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Running statistics become their mean over the processes; every other buffer that of the first one.

    A number that is the same everywhere is not touched, not even by rounding.
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
    """Raise ProofError where the processes do not hold the same numbers, to the last bit."""
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


def _leaves_out(model: nn.Module, example: Tensor) -> bool:
    """Whether a trainable parameter has no part in the output."""
    trial = copy.deepcopy(model).train()
    parameters = [parameter for parameter in trial.parameters() if parameter.requires_grad]
    with seeded(0), contiguous_strided(example.device):
        output = trial(example).float().sum()
        gradients = torch.autograd.grad(output, parameters, allow_unused=True)
    return any(gradient is None for gradient in gradients)
