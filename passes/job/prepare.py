"""Build network and data, and reject options that cannot reach the target, before training."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxprune.analysis import couple
from fxprune.arguments.inputs import as_inputs, as_meta, run_on
from fxprune.arguments.outputs import as_outputs
from fxprune.common.addresses import HUB, has_own_weights
from fxprune.common.number_checks import check_numbers
from fxprune.coupling import Coupling
from fxprune.errors import CheckpointError, DataError, ModelError, OptionError
from fxprune.models_zoo import Network, build, check_published
from fxprune.models_zoo.data import Task
from fxprune.passes.csgd import (
    Momentum,
    check_coupled,
    check_precision,
    momentum_of,
    solve_coupled_strength,
    solve_strength,
)
from fxprune.passes.onnx import load_onnxruntime
from fxprune.passes.options import Batches, Centripetal, FoldJob, Images, Job, Target, TrainOptions
from fxprune.passes.store import check_channels, left_out_line, load_weights, open_network
from fxprune.passes.train import check_optimizer, check_task, make_optimizer
from fxprune.pytorch.modules import named_tensors

from .training import Schedule, csgd_schedule
from .widen import build_widened, widths_back

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data

# Training images that clusters are found on, where these depend on images.
IMAGES = 512


def prepare(job: Job, device: torch.device) -> tuple[Network, Data]:
    """Build the data and a matching network with its initial weights.

    Raises:
        ModelError: the network cannot be built.
        CheckpointError: the checkpoint is damaged, or belongs to another network.
        DataError: the data are not available, or loss or metric return no number.
        OptionError: C-SGD has too few steps for the deviation, the opset or optimizer does not exist, the weights have
            16 bits, or outputs of this form need `loss` and `metric`.
    """
    check_export(job.opset)
    check_optimizer(job.of_csgd())
    pull_law(job.of_csgd(), coupled=job.coupled)
    check_pretrained(job)
    data = data_of(job)
    check_schedule(csgd_schedule(job), job.only_of(Centripetal), data)
    make = build if job.widen is None else partial(build_widened, factor=job.widen)
    network = network_of(job, (data.in_chans, data.image_size), data.num_classes, device, make)
    network = network if data.example is None else replace(network, example=data.example)
    check_outputs(network, data)
    check_task(network.model, data, device, seed=job.seed)
    return network, data


def check_outputs(network: Network, data: Data) -> None:
    """Compare what the network returns, on the meta device, with what loss and metric take.

    Raises:
        OptionError: cross entropy or accuracy would get another form than a tensor.
        ModelError: there are fewer outputs than classes.
    """
    try:
        returned = run_on(copy.deepcopy(network.model).to("meta").eval(), as_meta(as_inputs(network.example)))
    except Exception:  # the analysis says what it cannot run
        return
    task = data.task
    if not isinstance(returned, Tensor):
        asked = [name for name, given in {"loss": task.loss, "metric": task.metric}.items() if given is None]
        if asked:
            raise OptionError(
                f"the network returns {type(returned).__name__}, and cross entropy and accuracy take one tensor "
                f"[N, classes]: give {' and '.join(f'`{name}`' for name in asked)}, too."
            )
    elif task.classifies and returned.dim() > 1 and returned.shape[1] < data.num_classes:
        raise ModelError(
            f"the network has {returned.shape[1]} outputs, and the data has {data.num_classes} classes: give a network "
            "with an output for each class."
        )


def network_of(
    job: Job | FoldJob,
    image: tuple[int | None, int | None],
    num_classes: int,
    device: torch.device,
    make: Callable[..., Network] = build,
    *,
    new_classes: bool = True,
) -> Network:
    """Build the network of a job, or copy a given one, with its initial weights.

    Args:
        job: names the network, or a folder with a saved one.
        image: channels, and pixels per side; None: as the network of that name usually has them.
        num_classes: length of the output; 0: the network's own.
        device: where it goes.
        make: builds it by name.
        new_classes: a checkpoint may tell another number of classes apart; its classifier is left out.
    """
    channels, size = image
    if isinstance(job.model, str):
        classes = num_classes or None
        if job.model.startswith(HUB):
            import fxprune.timm  # noqa: F401  (its networks may be narrow)
        network = open_network(
            job.model, num_classes=classes, image=image, pretrained=job.pretrained, seed=job.seed, make=make
        )
        if not isinstance(network.example, Tensor) or network.example.dim() != 4:
            raise ModelError(f"`{job.model}` does not take one batch of images.")
    else:
        example = torch.empty(2, channels or 0, size or 0, size or 0, device="meta")
        network = Network(copy.deepcopy(job.model), None, example)
        check_channels(network, type(job.model).__name__)
    if job.checkpoint is not None:
        fresh = load_weights(network.model, job.checkpoint, num_classes=num_classes if new_classes else None)
        network = replace(network, fresh=fresh)
        if fresh and job.progress is not False:
            print(left_out_line(fresh, job.checkpoint, num_classes), file=sys.stderr, flush=True)
    check_precision(network.model.named_parameters())
    check_numbers(named_tensors(network.model))
    network.model.to(device).eval()
    return network


def check_pretrained(job: Job | FoldJob) -> None:
    """Raise ModelError if published weights are asked for and cannot be had."""
    if job.pretrained and isinstance(job.model, str) and not has_own_weights(job.model):
        check_published(job.model)


def target_of(job: Job, network: Network, coupling: Coupling, data: Data) -> Target:
    """Return the target of the job; for a widened network, the widths that it had before."""
    if job.widen is None:
        return job.only_of(Target).replace(cluster=job.clusters_by)
    assert isinstance(job.model, str)
    plain = _plain(job.model, data)
    widths = widths_back(coupling, couple(plain, network.example))
    return Target(widths=widths, method=job.method, seed=job.seed).replace(cluster=job.clusters_by)


def images_for(target: Target, data: Data) -> list[Any] | None:
    """Return training images without labels, if clusters depend on images."""
    from fxprune.models_zoo.data import unlabelled

    return unlabelled(data, IMAGES, seed=target.seed) if target.needs_images else None


def check_schedule(schedule: Schedule, pull: Centripetal, data: Data) -> None:
    """Raise OptionError if the strength is too large, or the steps too few for the deviation."""
    rates = schedule.rates(data)
    if pull.strength is None:
        # Unrelated rows deviate by about 1 of their size.
        pull_law(schedule.options, coupled=pull.coupled).solve(rates, min(1.0, pull.goal))
    elif max(rates) * pull.strength >= 1.0:
        raise OptionError(
            f"lr * strength = {max(rates):g} * {pull.strength:g} = {max(rates) * pull.strength:g}: it must stay below "
            f"1, or the pull overshoots. Take a strength below {1.0 / max(rates):.3g}."
        )


@dataclass(frozen=True)
class PullLaw:
    """The law of the pull, decoupled or through SGD's momentum.

    It leaves out weight decay, so that the answer errs on the safe side.

    Attributes:
        momentum: of SGD if the pull goes through it; None: decoupled.
    """

    momentum: Momentum | None = None

    def solve(self, lrs: Sequence[float], shrink: float) -> float:
        """Solve for the strength that leaves ``shrink`` of the deviation.

        Raises:
            OptionError: no strength reaches it.
        """
        if self.momentum is None:
            return solve_strength(lrs, shrink)
        return solve_coupled_strength(lrs, shrink, self.momentum)


def pull_law(options: TrainOptions, *, coupled: bool) -> PullLaw:
    """Make the law of the pull from the options alone: no optimizer exists yet.

    Raises:
        OptionError: this optimizer does not support the coupled form.
    """
    if not coupled:
        return PullLaw()
    optimizer = make_optimizer(nn.Linear(2, 2), options, lr=0.1)
    check_coupled(optimizer)
    return PullLaw(replace(momentum_of(optimizer.param_groups[0]), weight_decay=0.0))


def teacher_from_file(job: Job, network: Network, data: Data, device: torch.device) -> nn.Module | None:
    """Load the network whose weights ``teacher`` names as a file, in evaluation mode.

    Raises:
        CheckpointError: the file is damaged, or belongs to another network.
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
        teacher = _plain(job.model, data)  # the file may belong to the network before it was widened
        load_weights(teacher, job.teacher)
    return teacher.to(device).eval().requires_grad_(False)


def _plain(name: str, data: Data) -> nn.Module:
    return build(name, num_classes=data.num_classes, in_chans=data.in_chans, image_size=data.image_size).model


def check_export(opset: int) -> None:
    """Raise OptionError if there is no such opset, or no onnxruntime to check the file in."""
    from onnx.defs import onnx_opset_version

    if not 1 <= opset <= onnx_opset_version():
        raise OptionError(
            f"there is no opset {opset}: ONNX has 1 to {onnx_opset_version()} here; PyTorch writes 18 and later."
        )
    load_onnxruntime()


def data_of(job: Job | FoldJob) -> Data:
    """Load the data of a job, with the task that it is for."""
    if not isinstance(job, Job) or (job.loss is None and job.metric is None):
        return _data_of(job)
    return replace(_data_of(job), task=Task(job.loss, job.metric, job.higher_is_better, as_outputs(job.outputs)))


def _data_of(job: Job | FoldJob) -> Data:
    from fxprune.models_zoo.data import Data, data_from_loaders, data_from_pairs, load_data

    if isinstance(job.data, tuple):
        judged = isinstance(job, Job) and job.metric is not None
        return data_from_pairs(*job.data, job.model) if judged else data_from_loaders(*job.data)
    assert job.data is not None
    if isinstance(job.data, Data):
        return job.data
    if not isinstance(job.data, str):
        kind = type(job.data).__name__
        raise DataError(f"`data` is a name, a Data, or a pair of loaders, one to train and one to test, not {kind}.")
    root = None if job.data_root is None else str(job.data_root)
    images = job.only_of(Images if isinstance(job, Images) else Batches)
    return load_data(job.data, seed=job.seed, root=root, **vars(images) | {"in_chans": job.in_chans})
