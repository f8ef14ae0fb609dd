"""Images with their classes, in two loaders: one to train on, one that never shuffles to test on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor


class Loader(Protocol):
    """Batches of images [N, C, H, W], normalised, and classes int64 [N]; ``len`` is the number of batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the images; what is drawn at random follows from torch's global seed."""
        ...

    def __len__(self) -> int:
        """Number of batches of one pass."""
        ...


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, split in two for good by its seed.

    Attributes:
        name: what it was loaded by.
        num_classes: classes are numbered 0 to ``num_classes - 1``.
        in_chans: channels of an image.
        image_size: height and width of an image, in pixels.
        train: shuffled, augmented loader; the last batch is dropped unless it is full.
        test: loader in a fixed order, every image once.
        mean: per channel, subtracted from pixels of 0 to 1.
        std: per channel, what they were divided by next.
    """

    name: str
    num_classes: int
    in_chans: int
    image_size: int
    train: Loader = field(repr=False)
    test: Loader = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_data(
    name: str,
    *,
    image_size: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    workers: int = 0,
    root: str | Path | None = None,
    auto_augment: str | None = None,
    random_erasing: float = 0.0,
) -> Data:
    """Data by name: ``digits``, ``mnist5k``, a folder of images, or what timm reads (``torch/cifar10``, ``hfds/...``).

    Args:
        name: a packaged data set; a folder with ``train/`` and ``val/`` (or ``validation/``), one sub-folder per class;
            or timm's name of a data set.
        image_size: pixels per side, at least 8; None: 32 for digits, 28 for mnist5k, else the shorter side of the first
            image, at most 224.
        batch_size: images per batch.
        seed: seed of the split of the packaged sets; the others come split.
        workers: processes that decode images; the packaged sets need none.
        root: where timm looks for a data set, or puts it; None: ``~/.cache/fxprune``.
        auto_augment: timm's name of a policy for the training images, not for the packaged sets.
        random_erasing: share of the training images of which a part is erased, not for the packaged sets.

    Raises:
        DataError: there is no such data, a package that reads it is missing, or it cannot be split into these classes.
        OptionError: a size below its least, or an augmentation that there is not or that these data cannot have.
    """
    from fxprune.errors import OptionError

    from .data_packaged import PACKAGED, load_packaged
    from .data_timm import load_timm

    least = {"image_size": (image_size, 8), "batch_size": (batch_size, 2), "workers": (workers, 0)}
    for option, (value, bound) in least.items():
        if value is not None and value < bound:
            raise OptionError(f"{option} is {value}; it must be at least {bound}.")
    if name in PACKAGED:
        if auto_augment or random_erasing:
            raise OptionError(f"auto_augment and random_erasing are for images that timm reads, not for `{name}`.")
        return load_packaged(name, image_size=image_size, batch_size=batch_size, seed=seed)
    if not 0.0 <= random_erasing <= 1.0:
        raise OptionError(f"random_erasing is {random_erasing:g}; it is a share of the images, from 0 to 1.")
    folder = Path(root) if root is not None else Path.home() / ".cache" / "fxprune"
    augment = {"auto_augment": auto_augment, "re_prob": random_erasing}
    return load_timm(name, image_size=image_size, batch_size=batch_size, workers=workers, root=folder, augment=augment)
