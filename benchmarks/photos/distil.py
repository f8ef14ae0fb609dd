"""Train a narrow network without labels: the wide network is the teacher."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .settings import PhotoSettings


def distil(narrow: nn.Module, wide: nn.Module, crops: Iterable[Tensor], settings: PhotoSettings) -> None:
    """Bring the logits of a network nearer to those of its teacher, in place.

    Running statistics stay as they are: those of a few photos are far from ImageNet's.
    """
    narrow.eval()
    for parameter in narrow.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(narrow.parameters(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps + 1, pct_start=settings.warmup, cycle_momentum=False
    )
    for batch in crops:
        with torch.no_grad():
            wanted = wide(batch)
        loss = (narrow(batch) - wanted).square().mean() / wanted.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
