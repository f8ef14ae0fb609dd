"""The first half of the main job: a network with weights for its data, then the same network with equal clusters."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import Optimizer

from fxprune.coupling import Coupling
from fxprune.errors import OptionError
from fxprune.plans import Plan
from fxprune.propagate import couple

from .build import Network, build
from .checkpoint import Checkpoint
from .csgd import Csgd, Deviation, csgd
from .job import DEVIATION, EPOCHS, Job, Target
from .pull import pull_of
from .ranks import ALONE, Ranks
from .train import train
from .train_engine import check_optimizer, check_precision
from .train_log import Epoch, Watchers
from .train_schedule import learning_rates, steps_per_epoch_of
from .weights import load_weights
from .widen import build_widened, widths_back

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


def prepare(job: Job, device: torch.device) -> tuple[Network, Data]:
    """Network and data fit together, the network's weights are those that the job begins with.

    Raises:
        DataError: the data cannot be had.
        ModelError: the network cannot be built.
        CheckpointError: the checkpoint is damaged or of another network.
        OptionError: so few steps of C-SGD cannot bring the deviation down to what is asked for, or there is no such
            opset or optimizer, or the weights have 16 bits.
    """
    _check_opset(job.opset)
    check_optimizer(job.of_csgd())
    pull_of(job.of_csgd(), coupled=job.coupled)
    data = _data(job)
    check_schedule(job, data)
    if isinstance(job.model, str):
        make = build if job.widen is None else partial(build_widened, factor=job.widen)
        network = make(
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
    check_precision(network.model)
    network.model.to(device).eval()
    return network, data


def target_of(job: Job, network: Network, coupling: Coupling, data: Data) -> Target:
    """What the job is to end at: its own target, or the widths that a widened network had before it was widened."""
    if job.widen is None:
        return job
    assert isinstance(job.model, str)
    plain = build(job.model, num_classes=data.num_classes, in_chans=data.in_chans, image_size=data.image_size)
    widths = widths_back(coupling, couple(plain.model, network.example))
    return Target(widths=widths, method=job.method, seed=job.seed)


def check_schedule(job: Job, data: Data) -> None:
    """Raise OptionError where the strength is too large, or the steps are too few to end at the deviation."""
    rates = csgd_rates(job, data)
    if job.strength is None:
        # Rows that are not related at all deviate by about 1 of their size.
        pull_of(job.of_csgd(), coupled=job.coupled).solve(rates, min(1.0, _deviation(job)))
    elif max(rates) * job.strength >= 1.0:
        raise OptionError(
            f"lr * strength = {max(rates):g} * {job.strength:g} = {max(rates) * job.strength:g}: it must stay below 1, "
            f"or the pull overshoots. Take a strength below {1.0 / max(rates):.3g}."
        )


def csgd_rates(job: Job, data: Data) -> list[float]:
    """Learning rate of every step with C-SGD."""
    options = job.of_csgd()
    per_epoch = steps_per_epoch_of(len(data.train), options)
    return learning_rates(lr=job.csgd_lr, epochs=job.csgd_epochs, steps_per_epoch=per_epoch, options=options)


def wide_epochs(job: Job) -> int:
    """How long the wide network is trained: where it has no weights for its data, or where that is asked for."""
    return job.epochs if job.epochs is not None else 0 if job.checkpoint is not None else EPOCHS


def train_wide(
    job: Job,
    model: nn.Module,
    data: Data,
    device: torch.device,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Train the wide network, if it is to be trained at all."""
    if epochs := wide_epochs(job):
        train(
            model,
            data,
            epochs=epochs,
            lr=job.lr,
            options=job.of_wide(),
            teacher=teacher,
            device=device,
            seed=job.seed,
            progress=job.progress,
            checkpoint=checkpoint,
            ranks=ranks,
            watchers=Watchers(on_epoch=_both(_heartbeat(job), on_epoch)),
        )


def train_csgd(
    job: Job,
    model: nn.Module,
    plan: Plan,
    data: Data,
    device: torch.device,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[Epoch | None, Csgd], None] | None = None,
    stage: int = 1,
    ranks: Ranks = ALONE,
) -> Deviation:
    """Train on until the members of every cluster are equal but for a deviation, which is returned.

    ``on_epoch`` gets each epoch, None before the first, and the hook.
    """
    hooks: list[Csgd] = []
    rates = csgd_rates(job, data)

    def hook(optimizer: Optimizer) -> Csgd:
        if job.strength is not None:
            hooks.append(csgd(model, plan, optimizer, job.strength, coupled=job.coupled))
        else:
            hooks.append(csgd(model, plan, optimizer, deviation=_deviation(job), lrs=rates, coupled=job.coupled))
        if not (checkpoint and checkpoint.exists()):
            tell(None)
        return hooks[-1]

    def tell(epoch: Epoch | None) -> None:
        if on_epoch is not None:
            on_epoch(epoch, hooks[-1])

    def skip(step: int) -> None:
        """Let the steps that are left make up for the pull that was not taken."""
        if job.strength is None:
            with contextlib.suppress(OptionError):  # too late; the deviation at the end is reported
                hooks[-1].aim(_deviation(job), rates[step + 1 :])

    train(
        model,
        data,
        epochs=job.csgd_epochs,
        lr=job.csgd_lr,
        options=job.of_csgd(),
        teacher=teacher,
        device=device,
        seed=job.seed + stage,  # other shuffles than those of the wide network
        progress=job.progress,
        label=phase_of(stage),
        checkpoint=checkpoint,
        ranks=ranks,
        watchers=Watchers(
            make_hook=hook,
            on_skip=skip,
            on_epoch=_both(_heartbeat(job), tell),
        ),
    )
    return hooks[-1].deviation()


def phase_of(stage: int) -> str:
    """Name of the C-SGD of a stage, counted from 1, in records, checkpoints and seconds."""
    return "csgd" if stage == 1 else f"csgd{stage}"


def teacher_from_file(job: Job, network: Network, data: Data, device: torch.device) -> nn.Module | None:
    """The network whose weights ``teacher`` names as a file, in evaluation mode.

    Raises:
        CheckpointError: the file is damaged or of another network.
        ModelError: the network cannot be built.
    """
    if job.teacher is None or job.teacher == "wide":
        return None
    teacher = copy.deepcopy(network.model)
    if job.teacher_model is not None:
        teacher = build(
            job.teacher_model, num_classes=data.num_classes, in_chans=data.in_chans, image_size=data.image_size
        ).model
    load_weights(teacher, job.teacher)
    return teacher.to(device).eval().requires_grad_(False)


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
        auto_augment=job.auto_augment,
        random_erasing=job.random_erasing,
    )


def _deviation(job: Job) -> float:
    return DEVIATION if job.deviation is None else job.deviation


def _both(*calls: Callable[[Epoch], None] | None) -> Callable[[Epoch], None]:
    def both(epoch: Epoch) -> None:
        for call in calls:
            if call is not None:
                call(epoch)

    return both


def _heartbeat(job: Job) -> Callable[[Epoch], None] | None:
    """A line per epoch where there is no terminal for a bar."""
    if job.progress is False or job.progress or sys.stderr.isatty():
        return None

    def say(epoch: Epoch) -> None:
        print(f"  epoch {epoch.number}: loss {epoch.loss:.3f}, test {epoch.accuracy}", file=sys.stderr, flush=True)

    return say
