"""Define the settings of the table, its widths, and the columns of a row."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.results import ArmRow, Settings

KEEPS = ("1/2", "1/4")


@dataclass(frozen=True, kw_only=True)
class PriceSettings(Settings):
    """The recipe of all arms, with less data than there is, so that many arms can be trained.

    Attributes:
        blocks: n of the residual network with 6n + 2 layers.
        train_images: to train on: the first of a permutation that the seed determines.
        images: the first of these are used without labels: by clusters, repairs and removal by activation. Taylor's
            removal uses them with labels.
        teacher_temperature: what the logits of network and teacher are divided by.
        teacher_weight: share of the teacher in the loss.
        loose_deviation: of the clusters, at which C-SGD ends if a repair takes up the rest.
    """

    data: str = "fashion-mnist"
    wide_epochs: float = 4.0
    more_epochs: float = 4.0
    blocks: int = 1
    train_images: int = 12_000
    images: int = 512
    teacher_temperature: float = 4.0
    teacher_weight: float = 0.5
    loose_deviation: float = 0.05


# Handwritten digits, for a look within minutes.
QUICK = PriceSettings(data="digits", image_size=12, train_images=1437, images=256)


@dataclass(frozen=True, kw_only=True)
class PriceRow(ArmRow):
    """The results of one arm with one seed; ``trimmed`` is top-1 just after the reduction.

    Attributes:
        agreement: share of the test images that get the class which the wide network after W epochs gives them.
        cpu_seconds: of the reduction and the training after W epochs, tests left out.
    """

    agreement: float | None = None
    cpu_seconds: float | None = None
