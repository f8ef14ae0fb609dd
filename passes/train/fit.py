"""Train a network with timm's optimizers and schedulers, and with a hook on the optimizer."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from torch import nn

from fxprune.common.progress import telling
from fxprune.errors import DataError, OptionError
from fxprune.passes.csgd import check_precision
from fxprune.passes.options import TrainOptions
from fxprune.passes.store import Checkpoint

from .log import Callbacks, TrainLog
from .loop import Training
from .phase import Phase
from .signals import StopRequest, stop_requests

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


def train(
    model: nn.Module,
    data: Data,
    *,
    options: TrainOptions | None = None,
    callbacks: Callbacks | None = None,
    checkpoint: Checkpoint | None = None,
    **settings: Any,
) -> TrainLog:
    """Train the model in place; (seed, epoch) and the weights alone determine each epoch.

    Args:
        model: maps [N, C, H, W] to [N, classes]; it is moved to ``device``, changed, and left in evaluation mode. With
            ``ema``, it ends with the averaged weights.
        data: images of that shape.
        options: everything that determines a step.
        callbacks: the functions to call during training.
        checkpoint: where to resume from, and what to write. With it, the first Ctrl-C or SIGTERM ends the training
            after the present step and writes a checkpoint.
        **settings: attributes of :class:`Phase`, at least ``epochs`` and ``lr``; and, instead of ``options`` and
            ``callbacks``, single attributes of these.

    Raises:
        DataError: the data has no batch to train on.
        OptionError: an unknown optimizer, or a value out of range.
        DivergedError: the loss or a weight is no longer finite.
        CheckpointError: the checkpoint is damaged, or belongs to another job.
        ProofError: the processes do not end with the same weights.
        StoppedError: Ctrl-C or SIGTERM, after the checkpoint was written.
    """
    phase = Phase(**_taken(settings, Phase))
    calls = {name: call for name, call in _taken(settings, Callbacks).items() if call is not None}
    if (callbacks and calls) or (options and settings):
        raise TypeError(
            f"train got {', '.join(calls if callbacks and calls else settings)} beside the record of these."
        )
    callbacks = callbacks or Callbacks(**calls)
    options = options or TrainOptions(**settings)
    if not len(data.train):
        raise DataError(f"`{data.name}` has no batch to train on.")
    check_precision(model.named_parameters())
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise OptionError("no parameter of the network takes gradients (requires_grad=False): nothing would train.")
    training = Training(model, data, phase, options, callbacks)
    wanted = phase.progress if phase.ranks.first else False
    with (
        training.hook,
        stop_requests() if checkpoint else nullcontext(StopRequest()) as stop,
        telling(training.steps, f"  {phase.label}", ", overall step", wanted=wanted) as bar,
    ):
        return training.run(bar, stop, checkpoint)


def _taken(settings: dict[str, Any], record: type) -> dict[str, Any]:
    """Remove the settings that are fields of a record, and return them."""
    return {name: settings.pop(name) for name in [*settings] if name in record.__dataclass_fields__}  # type: ignore[attr-defined]
