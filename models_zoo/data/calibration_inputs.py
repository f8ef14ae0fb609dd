"""Images without labels: of a data set's training part, or from files of any folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxprune.common.random import seeded
from fxprune.errors import DataError

from .dataset import Data
from .pairs import samples_in
from .preprocessing import Preprocessing

_BATCH = 32
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


def unlabelled(data: Data, count: int, *, seed: int) -> list[Any]:
    """Return training images [N, C, H, W], or other inputs: the first of a seeded order.

    They are not augmented, unless the data come from loaders of the user that augment them.
    """
    if data.example is not None and not isinstance(data.example, Tensor):
        with seeded(seed):
            return [*_until(count, (inputs for inputs, _ in data.train))]
    if data.plain is None:
        with seeded(seed):
            images = torch.cat([*_until(count, (batch for batch, _ in data.train))])
    else:
        images = torch.stack([data.plain[i][0] for i in _order(len(data.plain), seed)[:count]])
    return list(images[:count].split(_BATCH))


def read_images(
    paths: Sequence[str | os.PathLike[str]], preprocessing: Preprocessing, count: int, *, seed: int
) -> list[Tensor]:
    """Read images from files and folders, and prepare them as test images: batches [N, C, H, W].

    Args:
        paths: files of images, and folders that hold such files at any depth.
        preprocessing: the size of the network's images, to which they are resized and cropped; grey or colour; and mean
            and deviation.
        count: how many images; all, if there are fewer. Otherwise a seeded order chooses.
        seed: of the order.

    Raises:
        DataError: a path does not exist, a folder holds no image, or a file is no image that can be read.
    """
    from PIL import Image
    from timm.data import create_transform

    from .decoding import unreadable_image
    from .pixels import MODES, converted

    transform = create_transform(
        preprocessing.input_size,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop_pct,
        interpolation=preprocessing.interpolation or "bilinear",
    )
    mode = MODES.get(preprocessing.input_size[0])
    if mode is None:
        raise DataError(f"files hold images of 1 or 3 channels, and the network reads {preprocessing.input_size[0]}.")
    files = [file for path in paths for file in _files(Path(path))]
    images = []
    for file in (files[i] for i in _order(len(files), seed)[:count]):
        try:
            with Image.open(file) as opened:
                images.append(transform(converted(opened, mode)))
        except Exception as error:  # Pillow's decoders may raise any exception
            raise unreadable_image(file, error) from error
    return list(torch.stack(images).split(_BATCH))


def _files(path: Path) -> list[Path]:
    """List a file itself, or the images in a folder and all folders in it."""
    if not path.exists():
        raise DataError(f"there is no file or folder {path}.")
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not found:
        raise DataError(f"there is no image in {path}: {', '.join(_SUFFIXES)} are looked for, in all its folders.")
    return found


def _order(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def _until(count: int, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches up to the one with which the count is reached."""
    for batch in batches:
        yield batch
        count -= samples_in(batch)
        if count <= 0:
            return
