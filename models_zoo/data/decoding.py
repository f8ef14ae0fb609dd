"""Raise an error that names an unreadable image; timm's own data sets skip it."""

from __future__ import annotations

import contextlib
from typing import Any

from PIL import Image, UnidentifiedImageError
from timm.data import ImageDataset
from timm.data.readers.reader_image_folder import ReaderImageFolder

from fxprune.common.files import open_plain
from fxprune.errors import DataError

from .pixels import Converted, converted


class StrictImages(ImageDataset):  # type: ignore[misc]
    """The images of a timm reader, without skipping unreadable ones."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return the transformed image and its class.

        Raises:
            DataError: the image cannot be read; the message names its file.
        """
        try:
            if isinstance(self.reader, ReaderImageFolder):
                open_plain(self.filename(index, absolute=True)).close()  # a pipe has no end
            file, label = self.reader[index]
            with contextlib.closing(file):  # timm leaves it to be collected
                image = converted(Image.open(file), self.input_img_mode)
        except Exception as error:  # Pillow's decoders may raise any exception
            raise unreadable_image(self.filename(index, absolute=True), error) from error
        return image if self.transform is None else self.transform(image), label


class UnreadableImageError(DataError):
    """A file is no image that Pillow can read.

    PyTorch makes the error of a worker process again from the text of its traceback, which ends in the message.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text.rpartition(f"{type(self).__name__}: ")[2].strip())


def unreadable_image(file: Any, error: Exception) -> DataError:
    """Return the error for a file that Pillow cannot read."""
    why = "Pillow knows no such format" if isinstance(error, UnidentifiedImageError) else error
    return UnreadableImageError(f"cannot read the image {file}: {why}. Repair it, or take it away.")


def strict(dataset: Any, mode: str | None) -> Any:
    """Make timm's data sets raise an error for an unreadable image.

    Args:
        dataset: of timm, or of another library.
        mode: of all images, as Pillow names it; None: colour in timm's data sets, unchanged in others.
    """
    if type(dataset) is ImageDataset:
        return StrictImages("", reader=dataset.reader, input_img_mode=mode or "RGB")
    return dataset if mode is None else Converted(dataset, mode)
