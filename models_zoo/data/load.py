"""Data by name: packaged sets, folders of images, and what timm reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fxprune.errors import OptionError
from fxprune.passes.options import RANGES

from .dataset import Data
from .packaged import PACKAGED, load_packaged
from .timm import load_timm


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
    hflip: float | None = None,
    vflip: float = 0.0,
    crop_scale: Sequence[float] | None = None,
    crop_ratio: Sequence[float] | None = None,
    color_jitter: float | None = None,
    crop_pct: float | None = None,
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
        auto_augment: timm's name of a policy for the training images; this and what follows, not for the packaged sets.
        random_erasing: share of the training images of which a part is erased.
        hflip: share of the training images that are mirrored left to right; None: 0.5.
        vflip: share of the training images that are mirrored upside down.
        crop_scale: least and largest share of its area that is cut out of a training image; None: 0.08 and 1, or 0.7
            and 1 for images of up to 64 pixels per side.
        crop_ratio: least and largest width over height of that cut; None: 3/4 and 4/3, or 0.9 and 1.1 for small images.
        color_jitter: by which share brightness, contrast and saturation of the training images may change; None: 0.4,
            or 0 for grey and small images. timm leaves it out beside every policy but ``3a``.
        crop_pct: share of the side of a test image that is cut out of its middle; None: 0.875, or 1 for small images.

    Raises:
        DataError: there is no such data, a package that reads it is missing, or it cannot be split into these classes.
        OptionError: a size below its least, or an augmentation that there is not or that these data cannot have.
    """
    least = {"image_size": (image_size, 8), "batch_size": (batch_size, 2), "workers": (workers, 0)}
    for option, (value, bound) in least.items():
        if value is not None and value < bound:
            raise OptionError(f"{option} is {value}; it must be at least {bound}.")
    augment = {
        "auto_augment": auto_augment,
        "random_erasing": random_erasing,
        "hflip": hflip,
        "vflip": vflip,
        "crop_scale": crop_scale,
        "crop_ratio": crop_ratio,
        "color_jitter": color_jitter,
        "crop_pct": crop_pct,
    }
    if name in PACKAGED:
        if asked := [option for option, value in augment.items() if value]:
            raise OptionError(f"{', '.join(asked)}: for images that timm reads, not for `{name}`.")
        return load_packaged(name, image_size=image_size, batch_size=batch_size, seed=seed)
    for option, (range_, holds) in RANGES.items():
        if augment[option] is not None and not holds(augment[option]):
            raise OptionError(f"{option} is {augment[option]}; it must be {range_}.")
    folder = Path(root) if root is not None else Path.home() / ".cache" / "fxprune"
    return load_timm(name, image_size=image_size, batch_size=batch_size, workers=workers, root=folder, augment=augment)
