"""Images with their classes, in two loaders: one to train on, one that never shuffles to test on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
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
        classes: names of the classes by number; empty: unknown.
        crop_pct: share of the side of a test image that is cut out of its middle; None: unknown.
        interpolation: by which images were brought to size; None: unknown.
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
