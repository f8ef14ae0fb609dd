"""The settings of one training apart from the options that determine its steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fxprune.passes.distributed import ALONE, Ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """The settings of one training of one network.

    Attributes:
        epochs: passes over the training images.
        lr: largest learning rate of the schedule; :func:`fxprune.passes.train.learning_rates` gives all.
        teacher: a network whose logits the model imitates, on the same device.
        device: where to train.
        seed: of the order of the images, their augmentation, mixing, dropout.
        progress: show a bar on stderr; None: only if that is a terminal.
        label: name of the bar.
        ranks: which process this is; see :func:`fxprune.passes.train.joined`. All processes train on parts of the same
            batches and end with the same weights; the first one writes.
    """

    epochs: int
    lr: float
    teacher: nn.Module | None = None
    device: str | torch.device = "cpu"
    seed: int = 0
    progress: bool | None = None
    label: str = "train"
    ranks: Ranks = ALONE
