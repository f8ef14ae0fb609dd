"""Make data of grey images in memory: resized, normalised, and shifted to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from fxprune.passes.options import Images

from .dataset import Data
from .pixels import mode_of
from .tensor_loader import TensorLoader


@dataclass(frozen=True, eq=False)
class GreyImages:
    """Square images of one channel and their classes, as a package or a file holds them.

    Attributes:
        images: [N, side, side], from 0 to ``white``.
        labels: integers [N], from 0.
        white: value of a white pixel.
    """

    images: NDArray[Any]
    labels: NDArray[Any]
    white: float

    def resized(self, size: int) -> Tensor:
        """Return float pixels of 0 to 1 [N, 1, size, size]."""
        pixels = torch.from_numpy(self.images).to(torch.float32, copy=True).div_(self.white).unsqueeze(1)
        same = self.images.shape[1:] == (size, size)
        return pixels if same else F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)

    def classes(self) -> Tensor:
        """Return the labels as int64 [N]."""
        return torch.from_numpy(self.labels).long()


def data_in_memory(
    name: str, splits: tuple[GreyImages, GreyImages], images: Images, *, image_size: int, classes: Sequence[str] = ()
) -> Data:
    """Normalise both splits by mean and deviation of the training pixels, and shift those.

    Args:
        name: of the data.
        splits: to train and to test.
        images: the batch size, and how many channels repeat the grey one.
        image_size: height and width.
        classes: their names; empty: their numbers.
    """
    train, test = splits
    channels = images.in_chans or 1
    mode_of(channels)
    pixels, others = train.resized(image_size), test.resized(image_size)
    mean, std = pixels.mean().item(), pixels.std().item()
    labels = train.classes()
    pixels, others = (each.sub_(mean).div_(std).expand(-1, channels, -1, -1) for each in (pixels, others))
    names = tuple(classes) or tuple(map(str, range(int(labels.max()) + 1)))
    return Data(
        name=name,
        num_classes=len(names),
        in_chans=channels,
        image_size=image_size,
        # one part in sixteen of the image: two pixels at 32
        train=TensorLoader(pixels, labels, images.batch_size, shuffle=True, shift=image_size // 16),
        test=TensorLoader(others, test.classes(), images.batch_size),
        mean=(mean,) * channels,
        std=(std,) * channels,
        classes=names,
        crop_pct=1.0,
        interpolation="bilinear",
        plain=TensorDataset(pixels, labels),
    )
