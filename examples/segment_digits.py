"""Narrow a segmentation network, judged by the digit that each pixel belongs to.

::

    python examples/segment_digits.py           # some minutes on a CPU
    python examples/segment_digits.py --quick   # a short training, to see that it runs

Pixels with ink have the class of their digit, all others are background. The loss is cross entropy over all pixels; the
metric is the share of ink whose class is right.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxprune
from fxprune.passes.report import verify_folder

BACKGROUND = 10


class SegmentationNet(nn.Module):
    """Half the resolution, a quarter of it, and back, with the details of each added again."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem, self.down, self.deep = block(1, width), block(width, 2 * width), block(2 * width, 2 * width)
        self.up, self.head = block(3 * width, width), nn.Conv2d(width, BACKGROUND + 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map an image [N, 1, 16, 16] to classes [N, 11, 16, 16]."""
        details = self.stem(images)
        x = self.deep(F.max_pool2d(self.down(F.max_pool2d(details, 2)), 2))
        x = F.interpolate(x, scale_factor=4.0, mode="nearest")
        return self.head(self.up(torch.cat([x, details], dim=1)))


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Make a convolution with its normalisation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def ink_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of pixels with ink that get the class of their digit."""
    ink = targets != BACKGROUND
    return (outputs.argmax(1) == targets)[ink].float().mean().item()


def load(count: int) -> tuple[DataLoader, DataLoader]:
    """Return digits and their pixels' classes, to train and to test."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    images = F.interpolate(images, size=16, mode="bilinear")
    classes = torch.tensor(digits.target)[:, None, None].expand(-1, 16, 16)
    targets = torch.where(images[:, 0] > 0.5, classes, BACKGROUND)
    train, test = TensorDataset(images[:count], targets[:count]), TensorDataset(images[1400:], targets[1400:])
    return DataLoader(train, batch_size=64, shuffle=True, drop_last=True), DataLoader(test, batch_size=128)


def main() -> None:
    """Compress, and check what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short training")
    parser.add_argument("--output", type=Path, default=Path("out-segment"))
    args = parser.parse_args()
    torch.manual_seed(0)
    length = {"epochs": 1, "csgd_epochs": 2, "deviation": 5e-3} if args.quick else {"epochs": 15, "csgd_epochs": 20}
    result = fxprune.compress(
        SegmentationNet(8 if args.quick else 32), load(256 if args.quick else 1400),
        loss=F.cross_entropy, metric=ink_accuracy, keep=0.5, output=args.output, **length,
    )  # fmt: skip
    print(result)
    before, after = (result.stages[place].params for place in (0, -1))
    print(f"{before:,} -> {after:,} parameters, verified: {verify_folder(args.output).passed}")


if __name__ == "__main__":
    main()
