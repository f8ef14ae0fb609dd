"""Images and classes in two loaders: one to train, and one in a fixed order to test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .task import CLASSIFICATION, Task


class Loader(Protocol):
    """Batches of normalised images [N, C, H, W] and classes int64 [N]; ``len`` counts batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one pass over the images; torch's global seed determines all random numbers."""
        ...

    def __len__(self) -> int:
        """Return the number of batches of one pass."""
        ...


class Plain(Protocol):
    """Pairs of a normalised image [C, H, W] and its class, by number."""

    def __getitem__(self, index: int, /) -> tuple[Tensor, Any]:
        """Return an image and its class."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in two fixed parts, to train and to test.

    Attributes:
        name: the name that it was loaded by.
        num_classes: classes are numbered 0 to ``num_classes - 1``.
        in_chans: channels of an image.
        image_size: height and width of an image, in pixels.
        train: shuffled, augmented loader; the last batch is dropped unless it is full.
        test: loader in a fixed order, every image once.
        mean: per channel, subtracted from pixels of 0 to 1.
        std: per channel, divides the difference.
        classes: names of the classes by number; empty: unknown.
        crop_pct: side of the centre crop of a test image over the side of the image; None: unknown.
        interpolation: method by which images are resized; None: unknown.
        plain: the training images by number, prepared as to test, not augmented: pairs of an image and its class; None:
            ``train`` has to do.
        example: two samples of the inputs, where these are no square images with classes; then sizes and classes that
            there are not are 0. None: images.
        task: what a network is trained for and judged by.
    """

    name: str
    num_classes: int
    in_chans: int
    image_size: int
    train: Loader = field(repr=False)
    test: Loader = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    crop_pct: float | None = None
    interpolation: str | None = None
    plain: Plain | None = field(default=None, repr=False)
    example: Any = field(default=None, repr=False)
    task: Task = CLASSIFICATION

    @property
    def inputs(self) -> Any:
        """Two samples of the inputs: as given, or images on the meta device."""
        if self.example is not None:
            return self.example
        return torch.empty(2, self.in_chans, self.image_size, self.image_size, device="meta")
