"""Make data from two loaders of the user, such as torch's DataLoader."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from fxprune.common.random import seeded
from fxprune.errors import DataError
from fxprune.pytorch.precision import dtype_name

from .dataset import Data, Loader


def data_from_loaders(train: Loader, test: Loader) -> Data:
    """Make data from two loaders, whose first batches give the sizes.

    The classes come from the test loader: its data set's ``classes``, or else its labels. Mean 0 and deviation 1 are
    recorded, since batches do not tell how images were normalised.

    Args:
        train: batches of images [N, C, H, W], H = W, and classes int64 [N], with a length; shuffled and augmented.
        test: the same, in a fixed order, every image once.

    Raises:
        DataError: a loader has no length or no batch, or yields something else; the two do not match; or the test
            loader shuffles.
    """
    with seeded(0):  # torch's loaders draw random numbers
        shape, labels = _first(train, "training")
        test_shape, test_labels = _first(test, "test")
        again = _first(test, "test")[1]
        if shape != test_shape:
            raise DataError(
                f"training images are {_times(shape)}, test images {_times(test_shape)}: they must be alike."
            )
        if not torch.equal(test_labels, again):
            raise DataError(
                "the test loader begins with other images each time: give it a fixed order (shuffle=False)."
            )
        names = tuple(map(str, getattr(getattr(test, "dataset", None), "classes", ())))
        most, tested = int(labels.max()), max(int(batch.max()) for _, batch in _batches(test, "test"))
        count = len(names) or 1 + tested
    if tested >= count:
        raise DataError(f"the test data has classes up to {tested}, and names for 0 to {count - 1}: name every class.")
    if not 0 <= int(labels.min()) <= most < count:
        raise DataError(
            f"training images have classes {int(labels.min())} to {most}, and the test data has 0 to {count - 1}. "
            "Number them from 0; `fxprune.models_zoo.data.Data`, which takes the loaders, too, says how many there are."
        )
    channels, size, _ = shape
    return Data("loaders", count, channels, size, train, test, (0.0,) * channels, (1.0,) * channels, names)


def _first(loader: Loader, which: str) -> tuple[tuple[int, ...], Tensor]:
    """Return the shape of an image and the classes of the first batch."""
    try:
        len(loader)
    except TypeError as error:
        raise DataError(f"the {which} loader has no length, which the learning rate goes by: {error}.") from error
    for images, labels in itertools.islice(_batches(loader, which), 1):
        shape = tuple(images.shape[1:])
        if len(shape) != 3 or shape[1] != shape[2]:
            raise DataError(f"{which} images are {_times(shape)}: they must be channels x height x width, and square.")
        return shape, labels
    raise DataError(f"the {which} loader has no batch.")


def _batches(loader: Loader, which: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every batch; raise DataError if it is not images and classes."""
    for batch in loader:
        match batch:
            case [Tensor() as images, Tensor() as labels] if images.is_floating_point() and labels.dtype == torch.int64:
                if labels.shape == images.shape[:1] != (0,):
                    yield images, labels
                    continue
        raise DataError(
            f"a batch of the {which} loader must be float images [N, C, H, W] and int64 classes [N], "
            f"not {_described(batch)}. Other batches need `loss` and `metric`."
        )


def _described(batch: object) -> str:
    if isinstance(batch, Tensor):
        return f"{dtype_name(batch.dtype)} {list(batch.shape)}"
    if isinstance(batch, list | tuple):
        return f"({', '.join(map(_described, batch[:4]))})"
    return type(batch).__name__


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
