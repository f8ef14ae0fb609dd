"""Bring the images of files to one form: grey or colour, of 8 bits, without transparency."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxprune.errors import OptionError

MODES = {1: "L", 3: "RGB"}  # by channels


def mode_of(channels: int) -> str:
    """Return Pillow's mode of images with so many channels.

    Raises:
        OptionError: files hold no such images.
    """
    if channels not in MODES:
        raise OptionError(f"`in_chans` is 1 or 3 for images of files, which are grey or coloured, not {channels}.")
    return MODES[channels]


def converted(image: Any, mode: str) -> Any:
    """Convert an image of Pillow to grey (``L``) or colour (``RGB``), without transparency.

    Pillow itself clips all pixels that have more than 8 bits, so that 16 bits become white.

    Raises:
        ValueError: numbers of unknown range: it is unclear which is white.
    """
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if deep:
        from PIL import Image

        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels are {'whole' if image.mode == 'I' else 'real'} numbers of 32 bits; store 8 or 16")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    return image.convert(mode)


class Converted:
    """A data set of torchvision or the hub, with images of another mode.

    Attributes:
        transform: what a loader does to each image; None: nothing.
    """

    def __init__(self, dataset: Any, mode: str) -> None:
        self.dataset, self.mode, self.transform = dataset, mode, None
        self.reader = getattr(dataset, "reader", None)
        self.classes = getattr(dataset, "classes", ())

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return an image and its class."""
        image, label = self.dataset[index]
        image = converted(image, self.mode)
        return image if self.transform is None else self.transform(image), label
