"""Estimate the running statistics of batch normalisation again, with the present weights.

Running statistics are moving averages: they lag behind weights that moved much in the last steps. Members of a cluster
then have equal filters but still different statistics, and the mean that the snap takes of these changes what the
network computes. (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3: the moving average is a poor
estimate for the last weights; a pass over some thousand images is a good one.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.arguments.inputs import as_inputs, batch_of, run_on
from fxprune.common.number_checks import check_numbers
from fxprune.plans import Plan
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.torch_private import BatchNorm, pytree

from .clusters import doubled, largest_change, project
from .snap import cuts_of

# After so many images, mean and variance are exact enough that predictions no longer change.
ENOUGH = 10_000


@torch.no_grad()
def settle(model: nn.Module, batches: Iterable[Any], *, images: int = ENOUGH) -> int:
    """Set running means and variances to the average of the batches' own means and variances.

    All other layers run in eval mode.

    Args:
        model: its batch normalisations are changed in place; its modes stay as they are.
        batches: training images [N, C, H, W], augmented as in training; or other inputs, in tuples or dicts.
        images: after how many to stop.

    Returns:
        How many images were used; 0 if no layer keeps running statistics, and then nothing changes.

    Examples:
        >>> import torch, fxprune
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> fxprune.settle(net, [torch.randn(16, 3, 16, 16) for _ in range(4)])
        64
    """
    check_numbers(named_tensors(model))
    norms = [norm for norm in model.modules() if isinstance(norm, BatchNorm) and norm.running_mean is not None]
    device = next((buffer.device for norm in norms for buffer in norm.buffers()), None)
    if device is None:
        return 0
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    seen = 0
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train().momentum = None  # the mean over all batches
        for batch in batches:
            inputs = pytree.tree_map_only(Tensor, lambda x: x.to(device), as_inputs(batch))
            run_on(model, inputs)
            seen += batch_of(inputs)
            if seen >= images:
                break
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return seen


def unsettled(model: nn.Module, plan: Plan) -> tuple[float, str]:
    """Return the largest change that the snap would make to a buffer, and the buffer's name.

    The change is what :func:`~fxprune.passes.merge.snap.snap` reports; it is 0 if the plan ties no buffer.
    """
    tensors, weights = dict(named_tensors(model)), dict(model.named_parameters(remove_duplicate=False))
    changes = [(0.0, "")]
    for name, cuts in cuts_of(plan, tensors, tied=True).items():
        if name not in weights:
            value = doubled(tensors[name].detach())
            changes += [(float(largest_change(value, project(value, cuts), cut.dim)), name) for cut in cuts]
    return max(changes)
