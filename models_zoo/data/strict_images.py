"""An image that cannot be read is an error that names it, where timm's data sets notice it and take the next one."""

from __future__ import annotations

from typing import Any

from PIL import Image
from timm.data import ImageDataset

from fxprune.errors import DataError


class StrictImages(ImageDataset):  # type: ignore[misc]
    """The images of a reader of timm's."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Image, transformed, and class.

        Raises:
            DataError: the image cannot be read; its file is named.
        """
        try:
            file, label = self.reader[index]
            image = Image.open(file).convert(self.input_img_mode)
        except Exception as error:  # Pillow's decoders raise whatever they like
            raise DataError(
                f"cannot read the image {self.filename(index, absolute=True)}: {error}. Repair it, or take it away."
            ) from error
        return image if self.transform is None else self.transform(image), label


def strict(dataset: Any) -> Any:
    """The same images, each of them or an error; data sets other than timm's own are left as they are."""
    return StrictImages("", reader=dataset.reader) if type(dataset) is ImageDataset else dataset
