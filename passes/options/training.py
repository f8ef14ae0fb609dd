"""How a network is trained, whichever phase of the job it is: checked when it is made, and free of torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fxprune.errors import OptionError

SCHEDULERS = ("cosine", "tanh", "poly", "step", "multistep", "constant", "wsd", "rsqrt")
# Those that fall to ``min_lr``.
FALLING = ("cosine", "tanh", "poly", "wsd", "rsqrt")
AMP = ("float16", "bfloat16")
CLIP_MODES = ("norm", "value", "agc")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of :func:`fxprune.passes.train.fit.train`, most under the names that they have in timm's training script.

    Attributes:
        optimizer: timm's name; ``sgd`` has Nesterov momentum.
        momentum: for the optimizers that have one.
        weight_decay: on everything but vectors (biases, normalisations).
        scheduler: of the learning rate, one of ``SCHEDULERS``.
        warmup_epochs: how long the rate rises; None: one epoch, or a fifth of a short training.
        min_lr: where the rate ends, for the schedulers that fall to an end.
        decay_milestones: ``multistep``: after how many epochs the rate drops, in ascending order.
        decay_epochs: ``step``: epochs from drop to drop; ``wsd``, ``rsqrt``: length of the fall, or its share below 1.
        decay_rate: factor of a drop (None: 0.1), or the power of ``poly`` (None: 1).
        label_smoothing: share of the target spread over all classes.
        mixup: alpha of mixup; 0: none.
        cutmix: alpha of cutmix; 0: none.
        mixup_prob: share of the batches that are mixed.
        mixup_switch_prob: share of those that get cutmix, where both are on.
        teacher_temperature: what the logits of network and teacher are divided by when they are compared.
        teacher_weight: share of the teacher in the loss, above 0 and up to 1.
        ema: decay of an average of the wide network's weights, which then is what is evaluated and kept.
        amp: compute in ``float16`` (with a scaled loss) or ``bfloat16``; weights and their updates stay in float32.
        channels_last: keep images and weights in that order of memory, but for layers that oneDNN gets wrong.
        accumulate: batches whose gradients make one step.
        clip_grad: bound of the gradient; None: none.
        clip_mode: of its ``norm``, of each ``value``, or of each row's norm in units of its weights' (``agc``).
    """

    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    scheduler: str = "cosine"
    warmup_epochs: float | None = None
    min_lr: float = 0.0
    decay_milestones: Sequence[float] | None = None
    decay_epochs: float | None = None
    decay_rate: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    teacher_temperature: float = 4.0
    teacher_weight: float = 0.5
    ema: float | None = None
    amp: str | None = None
    channels_last: bool = False
    accumulate: int = 1
    clip_grad: float | None = None
    clip_mode: str = "norm"

    def __post_init__(self) -> None:
        """Check every option; the name of the optimizer waits for timm."""
        for name, choices in {"scheduler": SCHEDULERS, "amp": AMP, "clip_mode": CLIP_MODES}.items():
            check(self, name, f"one of {', '.join(choices)}", choices.__contains__)
        for name in ("momentum", "label_smoothing"):
            check(self, name, "0 or more and below 1", lambda x: 0.0 <= x < 1.0)
        for name in ("weight_decay", "warmup_epochs", "min_lr", "mixup", "cutmix"):
            check(self, name, "0 or more", lambda x: 0.0 <= x < math.inf)
        for name in ("decay_epochs", "decay_rate", "teacher_temperature", "clip_grad"):
            check(self, name, "above 0", lambda x: 0.0 < x < math.inf)
        for name in ("mixup_prob", "mixup_switch_prob"):
            check(self, name, "0 to 1", lambda x: 0.0 <= x <= 1.0)
        check(self, "teacher_weight", "above 0 and up to 1", lambda x: 0.0 < x <= 1.0)
        check(self, "ema", "above 0 and below 1", lambda x: 0.0 < x < 1.0)
        check(self, "accumulate", "1 or more", lambda n: n >= 1)
        self._check_milestones("decay_milestones")

    def _check_milestones(self, name: str) -> None:
        check(self, name, "epochs above 0 in ascending order", _ascends)
        if self.scheduler == "multistep" and not self._milestones():
            raise OptionError(
                "`scheduler` is multistep: `decay_milestones` must say after which epochs the rate drops."
            )

    def _milestones(self) -> Sequence[float] | None:
        """Where ``multistep`` drops the rate."""
        return self.decay_milestones


def short_warmup(epochs: int) -> float:
    """Epochs in which the learning rate rises where nothing is asked for: one, or a fifth of a short training."""
    return min(1.0, epochs / 5)


def check(options: object, name: str, range_: str, holds: Callable[[Any], Any]) -> None:
    """Raise OptionError where an option is given and out of its range, or of a wrong kind."""
    value = getattr(options, name)
    try:
        good = value is None or holds(value)
    except TypeError:
        good = False
    if not good:
        raise OptionError(f"`{name}` must be {range_}, not {value}.")


def _ascends(epochs: Any) -> bool:
    return all(before < after for before, after in itertools.pairwise([0.0, *epochs]))
