"""Train a network: timm's optimizers and schedulers, and whatever hook is to ride on the optimizer."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxprune.common.precision import check_precision
from fxprune.errors import DataError, OptionError
from fxprune.passes.options import TrainOptions
from fxprune.passes.store import Checkpoint

from .log import Callbacks, TrainLog
from .loop import Training
from .ranks import ALONE, Ranks
from .signals import StopRequest, stop_requests

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


def train(
    model: nn.Module,
    data: Data,
    *,
    epochs: int,
    lr: float,
    options: TrainOptions | None = None,
    teacher: nn.Module | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
    progress: bool | None = None,
    label: str = "train",
    callbacks: Callbacks | None = None,
    checkpoint: Checkpoint | None = None,
    ranks: Ranks = ALONE,
    **more: Any,
) -> TrainLog:
    """Train the model where it stands; each epoch is decided by (seed, number of the epoch) and the weights alone.

    Args:
        model: maps [N, C, H, W] to [N, classes]; it is moved to ``device``, changed, and left in evaluation mode. With
            ``ema``, it ends with the averaged weights.
        data: images of that shape.
        epochs: passes over the training images.
        lr: largest learning rate of the schedule; :func:`fxprune.passes.train.schedule.learning_rates` gives all.
        options: everything else that decides the result.
        teacher: a network whose logits the model is to meet, on the same device.
        device: where to train.
        seed: of the order of the images, their augmentation, mixing, dropout.
        progress: a bar on stderr; None: only if that is a terminal.
        label: what the bar is called.
        callbacks: who is called meanwhile.
        checkpoint: where to go on from, and what to write; the first Ctrl-C or SIGTERM then ends the training after the
            present step, with a checkpoint.
        ranks: which process this is; see :func:`fxprune.passes.train.joined`. All of them train on parts of the same
            batches and end with the same weights; the first one writes.
        **more: instead of ``options`` and ``callbacks``: single attributes of these.

    Raises:
        DataError: there is nothing to train on.
        OptionError: an unknown optimizer, or a value out of range.
        DivergedError: the loss is no longer a number.
        CheckpointError: the checkpoint is damaged, or of another job.
        ProofError: the processes do not end with the same weights.
        StoppedError: Ctrl-C or SIGTERM, after the checkpoint was written.
    """
    from tqdm import tqdm

    watching = {name: more.pop(name) for name in [*more] if name in Callbacks.__dataclass_fields__}
    callbacks = callbacks or Callbacks(**{name: call for name, call in watching.items() if call is not None})
    if not len(data.train):
        raise DataError(f"`{data.name}` has no batch to train on.")
    check_precision(model.named_parameters())
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise OptionError("no parameter of the network takes gradients (requires_grad=False): nothing would train.")
    training = Training(
        model,
        data,
        options or TrainOptions(**more),
        epochs,
        lr,
        torch.device(device),
        seed,
        label,
        teacher,
        callbacks,
        ranks,
    )
    disable = True if not ranks.first else None if progress is None else not progress
    with (
        training.hook,
        stop_requests() if checkpoint else nullcontext(StopRequest()) as stop,
        tqdm(total=training.steps, unit="step", disable=disable) as bar,
    ):
        return training.run(bar, stop, checkpoint)
