"""The first half of the main job: a network with weights for its data, then the same network with equal clusters."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import Optimizer

from fxprune.errors import OptionError
from fxprune.plans import Plan

from .build import Network, build
from .csgd import Csgd, Deviation, csgd
from .job import DEVIATION, EPOCHS, Job
from .strength import solve_strength
from .train import Epoch, train
from .train_schedule import learning_rates
from .weights import load_weights

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


def prepare(job: Job, device: torch.device) -> tuple[Network, Data]:
    """Network and data fit together, the network's weights are those that the job begins with.

    Raises:
        DataError: the data cannot be had.
        ModelError: the network cannot be built.
        CheckpointError: the checkpoint is damaged or of another network.
        OptionError: so few steps of C-SGD cannot bring the deviation down to what is asked for, or there is no such
            opset.
    """
    _check_opset(job.opset)
    data = _data(job)
    check_schedule(job, data)
    if isinstance(job.model, str):
        network = build(
            job.model,
            num_classes=data.num_classes,
            in_chans=data.in_chans,
            image_size=data.image_size,
            pretrained=job.pretrained,
            seed=job.seed,
        )
    else:
        example = torch.empty(2, data.in_chans, data.image_size, data.image_size, device="meta")
        network = Network(copy.deepcopy(job.model), None, example)
    if job.checkpoint is not None:
        load_weights(network.model, job.checkpoint)
    network.model.to(device).eval()
    return network, data


def check_schedule(job: Job, data: Data) -> None:
    """Raise OptionError where the strength is too large, or the steps are too few to end at the deviation."""
    rates = csgd_rates(job, data)
    if job.strength is None:
        # Rows that are not related at all deviate by about 1 of their size.
        solve_strength(rates, min(1.0, _deviation(job)))
    elif max(rates) * job.strength >= 1.0:
        raise OptionError(
            f"lr * strength = {max(rates):g} * {job.strength:g} = {max(rates) * job.strength:g}: it must stay below 1, "
            f"or the pull overshoots. Take a strength below {1.0 / max(rates):.3g}."
        )


def csgd_rates(job: Job, data: Data) -> list[float]:
    """Learning rate of every step with C-SGD."""
    return learning_rates(
        lr=job.csgd_lr,
        epochs=job.csgd_epochs,
        steps_per_epoch=len(data.train),
        warmup_epochs=_warmup(job.csgd_epochs),
    )


def train_wide(job: Job, model: nn.Module, data: Data, device: torch.device) -> None:
    """Train the wide network where it has no weights for this data, or where epochs are asked for."""
    epochs = job.epochs if job.epochs is not None else 0 if job.checkpoint is not None else EPOCHS
    if epochs:
        train(
            model,
            data,
            epochs=epochs,
            lr=job.lr,
            warmup_epochs=_warmup(epochs),
            device=device,
            seed=job.seed,
            progress=job.progress,
            on_epoch=_heartbeat(job),
        )


def train_csgd(job: Job, model: nn.Module, plan: Plan, data: Data, device: torch.device) -> Deviation:
    """Train on until the members of every cluster are equal but for a deviation, which is returned."""
    hooks: list[Csgd] = []

    def hook(optimizer: Optimizer) -> Csgd:
        if job.strength is not None:
            hooks.append(csgd(model, plan, optimizer, job.strength))
        else:
            hooks.append(csgd(model, plan, optimizer, deviation=_deviation(job), lrs=csgd_rates(job, data)))
        return hooks[-1]

    train(
        model,
        data,
        epochs=job.csgd_epochs,
        lr=job.csgd_lr,
        warmup_epochs=_warmup(job.csgd_epochs),
        device=device,
        seed=job.seed + 1,  # other shuffles than those of the wide network
        progress=job.progress,
        label="csgd",
        on_epoch=_heartbeat(job),
        make_hook=hook,
    )
    return hooks[0].deviation()


def _check_opset(opset: int) -> None:
    from onnx.defs import onnx_opset_version

    if not 1 <= opset <= onnx_opset_version():
        raise OptionError(
            f"there is no opset {opset}: ONNX has 1 to {onnx_opset_version()} here; 18 suits PyTorch best."
        )


def _data(job: Job) -> Data:
    from fxprune.models_zoo.data import load_data

    if not isinstance(job.data, str):
        return job.data
    return load_data(
        job.data,
        image_size=job.image_size,
        batch_size=job.batch_size,
        seed=job.seed,
        workers=job.workers,
        root=None if job.data_root is None else str(job.data_root),
    )


def _deviation(job: Job) -> float:
    return DEVIATION if job.deviation is None else job.deviation


def _warmup(epochs: int) -> float:
    """Epochs in which the learning rate rises: one, or a fifth of a short training."""
    return min(1.0, epochs / 5)


def _heartbeat(job: Job) -> Callable[[Epoch], None] | None:
    """A line per epoch where there is no terminal for a bar."""
    if job.progress is False or job.progress or sys.stderr.isatty():
        return None

    def say(epoch: Epoch) -> None:
        print(f"  epoch {epoch.number}: loss {epoch.loss:.3f}, test {epoch.accuracy}", file=sys.stderr, flush=True)

    return say
