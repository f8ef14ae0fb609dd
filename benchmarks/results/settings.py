"""Define the common settings and the arms; a digest of both tells whether a result is valid."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One recipe for all arms, so that none of them is trained better than another.

    Attributes:
        data: name of a packaged data set.
        image_size: pixels per side.
        batch_size: images per step.
        width: multiplier of the 16, 32 and 64 channels of the wide network.
        wide_epochs: W, passes over the data before anything is removed.
        more_epochs: C, passes afterwards; networks that are never squeezed are trained for W + C as well.
        lr: largest learning rate of the first W epochs.
        more_lr: largest learning rate of every later phase, whatever the arm.
        momentum: of Nesterov's form of SGD.
        weight_decay: on everything but vectors.
        warmup: share of each phase in which the learning rate rises; then it falls as a cosine.
        deviation: relative deviation of the clusters at which C-SGD is to end.
    """

    data: str = "mnist5k"
    image_size: int = 28
    batch_size: int = 32
    width: float = 1.0
    wide_epochs: float = 6.0
    more_epochs: float = 6.0
    lr: float = 0.05
    more_lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    deviation: float = 1e-5


# The clustering of handwritten digits, for a look within minutes.
QUICK = Settings(data="digits", image_size=12, wide_epochs=6.0, more_epochs=6.0)


# Arms that end at a share of the MACs, of the same network, and differ in which group gets which width.
BUDGETED = ("uniform", "inertia", "fisher")
# Arms that only take the time, and the images in a step where these are not those of the recipe.
CLOCKS = {"clock": 0, "clock64": 64, "clock256": 256}
# Batches of training images from which the Fisher information is estimated.
FISHER_BATCHES = 30


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        name: which function of ``results_run`` trains it.
        keep: share of the channels that are left of the wide network, as ``5/8``; of its MACs in ``BUDGETED`` arms.
    """

    name: str
    keep: str

    @property
    def share(self) -> float:
        """The share as a number."""
        return float(Fraction(self.keep))

    @property
    def width(self) -> str:
        """The share in words."""
        return f"{self.keep} of the MACs" if self.name in BUDGETED else self.keep

    def __str__(self) -> str:
        return f"{self.name} {self.keep}"


# In the order in which they run: a table that was stopped early has the arms of the main claims.
ARMS = (
    Arm("wide", "1"),
    *(Arm(name, keep) for keep in ("5/8", "1/2") for name in ("csgd", "scratch", "l1", "lasso", "merged")),
    *(Arm(name, "5/8") for name in ("even", "imbalanced", "pacesetter", "staged", "finetuned", *CLOCKS)),
    *(Arm(name, "1/2") for name in ("even", "imbalanced", "pacesetter", "squeezed")),
    *(Arm(name, keep) for keep in ("3/10", "1/20") for name in BUDGETED),
)


def digest(arm: Arm, settings: Settings) -> str:
    """Hash the arm and every setting, but not the sources, so that a later version adds seeds."""
    value = json.dumps([asdict(arm), asdict(settings)], sort_keys=True)
    return hashlib.sha256(value.encode()).hexdigest()[:12]
