"""Narrow a network that embeds images, judged by the nearest neighbours of digits.

::

    python examples/embed_digits.py           # some minutes on a CPU
    python examples/embed_digits.py --quick   # a short training, to see that it runs

There are no classes among the outputs. The loss pulls images of one digit together (Khosla et al., "Supervised
contrastive learning", 2020); the metric is recall at 1, over all pairs of test images.
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

TEMPERATURE = 0.2


class EmbeddingNet(nn.Module):
    """Map an image [N, 1, 8, 8] to a direction [N, 16]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.embedding = nn.Linear(8 * width, 16)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images."""
        return F.normalize(self.embedding(self.body(images)))


def contrastive_loss(embeddings: Tensor, digits: Tensor) -> Tensor:
    """Return the mean of -log softmax(similarity) over all pairs of one digit."""
    itself = torch.eye(len(digits), dtype=torch.bool, device=digits.device)
    similar = (embeddings @ embeddings.T / TEMPERATURE).masked_fill(itself, -1e4)
    pairs = (digits[:, None] == digits) & ~itself
    return -similar.log_softmax(1)[pairs].mean()


def recall_at_1(embeddings: Tensor, digits: Tensor) -> float:
    """Return the share of images whose nearest neighbour shows the same digit."""
    similar = embeddings @ embeddings.T
    nearest = similar.fill_diagonal_(-2.0).argmax(1)
    return (digits[nearest] == digits).float().mean().item()


def load(count: int) -> tuple[DataLoader, DataLoader]:
    """Return digits, to train and to test."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(digits.target)
    train, test = TensorDataset(images[:count], labels[:count]), TensorDataset(images[1400:], labels[1400:])
    return DataLoader(train, batch_size=64, shuffle=True, drop_last=True), DataLoader(test, batch_size=128)


def main() -> None:
    """Compress, and check what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short training")
    parser.add_argument("--output", type=Path, default=Path("out-embed"))
    args = parser.parse_args()
    torch.manual_seed(0)
    length = {"epochs": 1, "csgd_epochs": 2, "deviation": 5e-3} if args.quick else {"epochs": 15, "csgd_epochs": 20}
    result = fxprune.compress(
        EmbeddingNet(16 if args.quick else 32), load(256 if args.quick else 1400),
        loss=contrastive_loss, metric=recall_at_1, keep=0.5, output=args.output, **length,
    )  # fmt: skip
    print(result)
    before, after = (result.stages[place].params for place in (0, -1))
    print(f"{before:,} -> {after:,} parameters, verified: {verify_folder(args.output).passed}")


if __name__ == "__main__":
    main()
