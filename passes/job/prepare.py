"""Before the main job trains: a network and data that fit together, and options that can lead where they are to."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from fxprune.analysis import couple
from fxprune.common.precision import check_precision
from fxprune.coupling import Coupling
from fxprune.errors import CheckpointError, OptionError
from fxprune.models_zoo import Network, build
from fxprune.passes.onnx import load_onnxruntime
from fxprune.passes.options import Images, Job, Target
from fxprune.passes.store import load_weights
from fxprune.passes.train import check_optimizer

from .pull import pull_of
from .training import csgd_rates, deviation_asked
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
    load_onnxruntime()
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
    check_precision(network.model.named_parameters())
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
        pull_of(job.of_csgd(), coupled=job.coupled).solve(rates, min(1.0, deviation_asked(job)))
    elif max(rates) * job.strength >= 1.0:
        raise OptionError(
            f"lr * strength = {max(rates):g} * {job.strength:g} = {max(rates) * job.strength:g}: it must stay below 1, "
            f"or the pull overshoots. Take a strength below {1.0 / max(rates):.3g}."
        )


def teacher_from_file(job: Job, network: Network, data: Data, device: torch.device) -> nn.Module | None:
    """The network whose weights ``teacher`` names as a file, in evaluation mode.

    Raises:
        CheckpointError: the file is damaged or of another network.
        ModelError: the network cannot be built.
    """
    if job.teacher is None or job.teacher == "wide":
        return None
    teacher = copy.deepcopy(network.model) if job.teacher_model is None else _plain(job.teacher_model, data)
    try:
        load_weights(teacher, job.teacher)
    except CheckpointError:
        if job.widen is None or job.teacher_model is not None:
            raise
        assert isinstance(job.model, str)
        teacher = _plain(job.model, data)  # the file may be of the network before it was widened
        load_weights(teacher, job.teacher)
    return teacher.to(device).eval().requires_grad_(False)


def _plain(name: str, data: Data) -> nn.Module:
    return build(name, num_classes=data.num_classes, in_chans=data.in_chans, image_size=data.image_size).model


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
    root = None if job.data_root is None else str(job.data_root)
    return load_data(job.data, seed=job.seed, root=root, **vars(job.only_of(Images)))
