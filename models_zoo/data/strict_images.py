"""Raise an error that names an unreadable image; timm's own data sets skip it."""

from __future__ import annotations

from typing import Any

from PIL import Image
from timm.data import ImageDataset

from fxprune.errors import DataError


class StrictImages(ImageDataset):  # type: ignore[misc]
    """The images of a timm reader, without skipping unreadable ones."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return the transformed image and its class.

        Raises:
            DataError: the image cannot be read; the message names its file.
        """
        try:
            file, label = self.reader[index]
            image = Image.open(file).convert(self.input_img_mode)
        except Exception as error:  # Pillow's decoders may raise any exception
            raise DataError(
                f"cannot read the image {self.filename(index, absolute=True)}: {error}. Repair it, or take it away."
            ) from error
        return image if self.transform is None else self.transform(image), label


def strict(dataset: Any) -> Any:
    """Make timm's data sets raise an error for an unreadable image; others stay unchanged."""
    return StrictImages("", reader=dataset.reader) if type(dataset) is ImageDataset else dataset
