"""Yield batches of images in memory: no files, no worker processes, no state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TensorLoader:
    """A loader that yields each image once per pass, in order or shuffled and shifted.

    torch's seed determines the order and the shifts.

    Attributes:
        images: float [N, C, H, W].
        labels: int64 [N].
        batch_size: images per batch.
        shuffle: to train: draw an order, and drop the last batch unless it is full or the only one. A batch of one
            image would have no variance to normalise by.
        shift: to train: each image moves by up to this many pixels up or down and left or right; its border is
            repeated to fill the gap.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    batch_size: int
    shuffle: bool = False
    shift: int = 0

    def __len__(self) -> int:
        """Return the number of batches of one pass."""
        full, rest = divmod(len(self.images), self.batch_size)
        return max(full, int(rest > 0)) if self.shuffle else full + (rest > 0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images [batch, C, H, W] and classes [batch] for one pass."""
        count = len(self.images)
        order = torch.randperm(count) if self.shuffle else torch.arange(count)
        for chosen in torch.split(order, self.batch_size)[: len(self)]:
            images = self.images[chosen]
            yield shifted(images, self.shift) if self.shift else images, self.labels[chosen]


def shifted(images: Tensor, most: int) -> Tensor:
    """``y[n, :, i, j] = x[n, :, i + a_n, j + b_n]`` with clamped indices.

    The shifts a and b are drawn from -most to most.
    """
    height, width = images.shape[2:]
    # [N, C, 2 most + 1, 2 most + 1, H, W]: a view of every window; the last line takes one per image
    windows = F.pad(images, [most] * 4, mode="replicate").unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * most + 1, (2, len(images)), device=images.device)
    return windows[torch.arange(len(images), device=images.device), :, down, right]
