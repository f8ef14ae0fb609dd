"""Try a loss and a metric of the user's own before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fxprune.arguments.inputs import as_inputs, run_on
from fxprune.common.random import seeded
from fxprune.errors import DataError

from .answers import answers
from .evaluate import evaluating
from .step import moved

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


def check_task(model: nn.Module, data: Data, device: torch.device, *, seed: int = 0) -> None:
    """Compute the loss of one batch and the metric of all: neither fails after hours.

    Raises:
        DataError: the loss is no scalar with a gradient, or the metric no finite number.
    """
    task = data.task
    with seeded(seed):
        if task.loss is not None and (batch := next(iter(data.test), None)) is not None:
            inputs, targets = (moved(each, device) for each in batch)
            with evaluating(model), torch.enable_grad():
                loss = task.loss(run_on(model, as_inputs(inputs)), targets)
            name = getattr(task.loss, "__name__", type(task.loss).__name__)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                what = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
                raise DataError(f"the loss `{name}` returned {what}; it must be one number, as a tensor: take a mean.")
            if not loss.requires_grad:
                raise DataError(
                    f"the loss `{name}` has no gradient, so that nothing would train: compute it from the outputs "
                    "without `detach`, `item`, `argmax` or `no_grad`."
                )
        if not task.classifies:
            answers(model, data.test, device, task).score()
