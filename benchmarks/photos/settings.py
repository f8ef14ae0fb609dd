"""Define the settings of the table and the columns of a row."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.results import ArmRow, Settings

# Shares of the MACs that are left.
KEEPS = ("19/20", "9/10", "3/4", "1/2")


@dataclass(frozen=True, kw_only=True)
class PhotoSettings(Settings):
    """The settings that all rows share.

    Attributes:
        crops_to_fit: of each photo to fit from.
        crops_to_measure: of each photo that no fit sees.
        steps: of training with the wide network as the teacher.
        price_images: that the fold is timed with.
    """

    data: str = "photos"
    image_size: int = 224
    batch_size: int = 16
    lr: float = 2e-4
    crops_to_fit: int = 4
    crops_to_measure: int = 20
    steps: int = 100
    price_images: int = 256


QUICK = PhotoSettings(image_size=96, batch_size=8, crops_to_fit=2, crops_to_measure=5, steps=5, price_images=32)


@dataclass(frozen=True, kw_only=True)
class PhotoRow(ArmRow):
    """The numbers of one narrow network, or of one timed fold.

    Attributes:
        agreement: share of the crops of unseen photos that get the class which the wide network gives them.
        logits: relative error of the logits on the same crops, |narrow - wide| / |wide|.
        right: of the labelled photos, cut in the middle, how many get their class.
        right_unseen: of those that no fit sees.
        left: share of the MACs that is left.
        kept: the repair that the fold kept, judged on inputs that it held back.
        images: that a timed fold was given.
        cpu_seconds: of the fold, or of plan, reduction and training.
        memory: largest resident memory of the process, in bytes.
        memory_before: the same before the fold.
    """

    agreement: float | None = None
    logits: float | None = None
    right: int | None = None
    right_unseen: int | None = None
    left: float | None = None
    kept: str = ""
    images: int | None = None
    cpu_seconds: float | None = None
    memory: int | None = None
    memory_before: int | None = None
