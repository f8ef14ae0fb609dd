"""The images of a fold, and the network that reads them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fxprune.arguments.batches import BatchRange
from fxprune.arguments.inputs import tensors_of
from fxprune.common.addresses import has_own_weights
from fxprune.coupling import Coupling
from fxprune.errors import FxpruneError, OptionError
from fxprune.models_zoo import Network, model_input_size, published_classes
from fxprune.models_zoo.data import (
    CLASSIFICATION,
    Data,
    Loader,
    Preprocessing,
    Task,
    TensorLoader,
    preprocessing_for,
    preprocessing_of,
    read_images,
    unlabelled,
)
from fxprune.passes.calibration import calibration
from fxprune.passes.options import FoldJob
from fxprune.passes.store import check_takes_classes, read_manifest, read_network
from fxprune.passes.train import predict

from .prepare import check_pretrained, data_of, network_of


@dataclass(frozen=True, eq=False)
class Samples:
    """The images of a fold.

    Attributes:
        repair: batches without labels, to repair with; None: there are none.
        cluster: those of them that clusters are found on.
        test: images that measure the result, with labels or with the classes of the wide network; noise, if there are
            no images.
        judge: ``labels`` or ``wide``, which of these; empty: noise measures nothing.
        task: always classes.
    """

    repair: list[Tensor] | None
    cluster: list[Tensor] | None
    test: Loader
    judge: str
    task: Task = CLASSIFICATION

    @property
    def count(self) -> int:
        """The number of images without labels."""
        return sum(map(len, self.repair or ()))


def fold_network(job: FoldJob, device: torch.device) -> tuple[Network, Data | None, Preprocessing]:
    """Build the network with its weights; load the data set, if one is given.

    Without a data set, size and preprocessing of images are those of the run that wrote the checkpoint, if it lies in
    its folder, or else those of the network's published weights.

    Raises:
        DataError: the data are not available.
        ModelError: the network cannot be built.
        CheckpointError: the checkpoint is damaged, or belongs to another network.
        OptionError: published weights tell other classes apart.
    """
    if isinstance(job.data, str):  # which may take long to prepare
        check_pretrained(job)
    if job.data is not None:
        data = data_of(job)
        network = _built(job, (data.in_chans, data.image_size), data.num_classes, device)
        preprocessing = preprocessing_of(data)
        assert preprocessing is not None  # they are images
        return network, data, preprocessing
    known = _beside_checkpoint(job)
    channels, size, _ = (None, None, None) if known is None else known.input_size
    channels, size = job.in_chans or channels, job.image_size or size
    if not isinstance(job.model, str):  # a saved network knows its own
        own = model_input_size(job.model)
        channels, size = channels or own[0], size or own[1]
    network = _built(job, (channels, size), job.num_classes or (len(known.label_names) if known else 0), device)
    _, channels, height, width = network.example.shape
    shape = channels, height, width
    if known is None or known.input_size[0] != shape[0]:
        known = preprocessing_for(getattr(network.model, "pretrained_cfg", None) or {}, shape)
    return network, None, replace(known, input_size=shape)


def _built(job: FoldJob, image: tuple[int | None, int | None], classes: int, device: torch.device) -> Network:
    if isinstance(job.model, str):
        check_takes_classes(job.model, job.num_classes)
    published = published_classes(job.model) if isinstance(job.model, str) and not has_own_weights(job.model) else 0
    if job.pretrained and job.checkpoint is None and classes not in (0, published):
        raise OptionError(
            f"the published weights of `{job.model}` tell {published} classes apart, not {classes}: its last layer "
            "would have random weights. Give weights for these classes as `checkpoint`."
        )
    if not isinstance(job.data, str):
        check_pretrained(job)
    asked = job.data is not None or job.num_classes is not None
    return network_of(job, image, classes or published, device, new_classes=asked)


def fold_samples(
    job: FoldJob, network: Network, data: Data | None, preprocessing: Preprocessing, coupling: Coupling
) -> Samples:
    """Read the images of a fold.

    A quarter of the images is held back from the clusters: it decides what is kept, and, where there are no labels, it
    measures the result.

    Raises:
        DataError: an image that cannot be read, or one of another shape than the network's inputs.
    """
    if data is not None:
        images = unlabelled(data, job.images, seed=job.seed)
        used = [tensors_of(batch)[0] for batch in calibration(images, coupling).batches]
        return Samples(images, used, data.test, "labels")
    if job.inputs is None:
        noise = torch.randn(8, *preprocessing.input_size, generator=torch.Generator().manual_seed(job.seed))
        return Samples(None, None, _labelled(network, noise, coupling.batch), "")
    paths = [job.inputs] if isinstance(job.inputs, str) else job.inputs
    split = calibration(read_images(paths, preprocessing, job.images, seed=job.seed), coupling)
    used, held = ([tensors_of(batch)[0] for batch in part] for part in (split.batches, split.held))
    return Samples([*used, *held], used, _labelled(network, torch.cat(held or used), coupling.batch), "wide")


def _labelled(network: Network, images: Tensor, bound: BatchRange) -> TensorLoader:
    """Label images by the classes of the wide network, in batches that it takes."""
    rest = ((size, len(images) % size or size) for size in range(32, 0, -1))
    size = next((size for size, last in rest if bound.holds(size) and bound.holds(last)), 32)
    blank = TensorLoader(images, torch.zeros(len(images), dtype=torch.int64), size)
    device = next(network.model.parameters()).device
    return TensorLoader(images, predict(network.model, blank, device), size)


def _beside_checkpoint(job: FoldJob) -> Preprocessing | None:
    """Return the preprocessing of the run whose folder holds the checkpoint; None without one."""
    if job.checkpoint is None:
        return None
    folder = Path(job.checkpoint).parent
    with contextlib.suppress(FxpruneError, OSError):
        if Path(job.checkpoint).name in read_manifest(folder).files:
            found: Preprocessing | None = read_network(folder)["preprocessing"]
            return found
    return None
