"""Make the folders to damage: results of the main job, a saved network with every field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.models_zoo import registry


class Small(nn.Module):
    """The smallest network that the main job narrows: two groups, a norm, a classifier."""

    def __init__(self, num_classes: int, in_chans: int = 1, width: float = 1.0) -> None:
        super().__init__()
        channels = int(4 * width)
        self.first, self.norm = nn.Conv2d(in_chans, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, 4, 3, padding=1)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, classes]."""
        x = self.second(self.norm(self.first(x)).relu()).relu()
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Rich(nn.Module):
    """A small network whose graph has every kind of node and value."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.again = nn.Embedding(8, 8), nn.Embedding(8, 8)
        self.again.weight = self.table.weight
        self.reader = nn.LSTM(8, 8, batch_first=True)
        self.mixer = nn.Conv1d(8, 8, 3, padding="same", padding_mode="circular")
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.drop = nn.LayerNorm(8), nn.Dropout(0.1)
        self.head = nn.Linear(8, 3)
        self.register_buffer("scale", torch.full((1, 1, 8), 2.0), persistent=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[N, T] -> classes of each token, and features of the last one."""
        if x.dim() != 2:
            raise ValueError("one index for each token")
        x = self.table(x) * self.scale + self.again(x)
        x, _ = self.reader(x)
        x = torch.tanh(self.mixer(x.transpose(1, 2))).transpose(1, 2)
        q, k, v = self.qkv(self.drop(x)).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        with torch.no_grad():
            shift = q.mean((2,), keepdim=True)
        x = F.gelu(self.out(F.scaled_dot_product_attention(q - shift, k, v).transpose(1, 2).flatten(2)))
        return {"all": self.head(self.norm(x)), "last": x[:, -1, ...].to(torch.float64)}


@dataclass(frozen=True)
class DamageSubject:
    """A folder to damage.

    Attributes:
        folder: as it was written.
        other: of another network of the same class.
        has_results: whether it holds results of the main job, which determine the network, too.
    """

    folder: Path
    other: Path
    has_results: bool


def make_subjects(place: Path) -> list[DamageSubject]:
    """Make what is not there yet, of seeded networks."""
    registry.OWN = {**registry.OWN, "small": Small}  # type: ignore[misc]
    for name, keep in (("one", 0.5), ("other", 0.25)):
        if not (place / name / "manifest.json").exists():
            options = {"image_size": 8, "epochs": 0, "csgd_epochs": 1, "keep": keep, "seed": int(4 * keep)}
            fxprune.compress("small", "digits", output=place / name, progress=False, **options)
        if not (place / f"rich {name}" / "manifest.json").exists():
            _save_rich(place / f"rich {name}", keep)
    return [
        DamageSubject(place / "one", place / "other", has_results=True),
        DamageSubject(place / "rich one", place / "rich other", has_results=False),
    ]


def _save_rich(folder: Path, keep: float) -> None:
    """Narrow a network twice, so that it has an earlier plan, and leave factors in the graph."""
    with torch.random.fork_rng():
        torch.manual_seed(int(4 * keep))
        model, tokens = Rich().eval(), torch.arange(10).reshape(2, 5) % 8
        for share in (0.5, keep):
            plan = fxprune.plan(fxprune.couple(model, tokens), share, method="even")
            model = fxprune.narrow(fxprune.snap(model, plan), plan, absorb=False)
        fxprune.save(model, folder)
