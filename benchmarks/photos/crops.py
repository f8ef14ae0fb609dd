"""Cut photos into crops as ImageNet networks take them, at random or in the middle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .networks import PhotoNetwork
from .packages import labelled_photos, photos
from .settings import PhotoSettings

BATCH = 32
# The shorter side of a photo over that of the crop in its middle.
_MARGIN = 256 / 224


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos to fit from, and photos that no fit sees.

    Attributes:
        fitting: in a random order, so that those that a repair holds back are of all kinds.
        unseen: every second one of those with a label.
        labelled: (photo, class) of both.
        network: that takes them.
    """

    fitting: Sequence[Path]
    unseen: Sequence[Path]
    labelled: Sequence[tuple[Path, int]]
    network: PhotoNetwork

    def batch(self, crops: Sequence[Tensor]) -> Tensor:
        """Stack crops of pixels from 0 to 1, as the network takes them."""
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (self.network.mean, self.network.std))
        return ((torch.stack(list(crops)) - mean) / std).contiguous()


def split_photos(seed: int, network: PhotoNetwork) -> Photos:
    """Divide the photos for a network; a seed decides the order only."""
    labelled = labelled_photos()
    fitting = [*photos(), *(path for path, _ in labelled[::2])]
    order = np.random.default_rng(seed).permutation(len(fitting))
    return Photos([fitting[i] for i in order], [path for path, _ in labelled[1::2]], labelled, network)


def crops_to_fit(found: Photos, settings: PhotoSettings, seed: int) -> Sequence[Tensor]:
    """Cut the photos to fit from, one after another, into batches."""
    return found.batch(_crops(found.fitting, settings.crops_to_fit, settings.image_size, seed)).split(BATCH)


def crops_to_measure(found: Photos, settings: PhotoSettings, seed: int) -> Sequence[Tensor]:
    """Cut the photos that no fit sees into batches."""
    return found.batch(_crops(found.unseen, settings.crops_to_measure, settings.image_size, seed + 1)).split(BATCH)


def crops_to_train(found: Photos, settings: PhotoSettings, seed: int) -> Iterator[Tensor]:
    """Yield batches of fresh crops of random photos to fit from, one for each step."""
    rng = np.random.default_rng(seed + 2)
    images = [_open(path) for path in found.fitting]
    for _ in range(settings.steps):
        chosen = rng.integers(len(images), size=settings.batch_size)
        yield found.batch([_random_crop(images[i], settings.image_size, rng) for i in chosen])


def middles(found: Photos, settings: PhotoSettings) -> tuple[Sequence[Tensor], Tensor]:
    """Cut the middle out of each labelled photo; return batches, and the classes."""
    crops = [_middle(_open(path), settings.image_size) for path, _ in found.labelled]
    return found.batch(crops).split(BATCH), torch.tensor([label for _, label in found.labelled])


def _crops(paths: Sequence[Path], count: int, size: int, seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [_random_crop(image, size, rng) for image in map(_open, paths) for _ in range(count)]


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _random_crop(image: Image.Image, size: int, rng: np.random.Generator) -> Tensor:
    """Cut out a square of a quarter to all of the largest; turn half of them left to right."""
    side = min(image.size) * np.sqrt(rng.uniform(0.25, 1.0))
    left, top = (rng.uniform(0.0, length - side) for length in image.size)
    crop = _cut(image, left, top, side, size)
    return crop.flip(-1) if rng.random() < 0.5 else crop


def _middle(image: Image.Image, size: int) -> Tensor:
    side = min(image.size) / _MARGIN
    left, top = ((length - side) / 2 for length in image.size)
    return _cut(image, left, top, side, size)


def _cut(image: Image.Image, left: float, top: float, side: float, size: int) -> Tensor:
    box = (left, top, left + side, top + side)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0), np.float32)
    return torch.from_numpy(pixels / 255.0).permute(2, 0, 1)
