"""Options that do nothing unless another is on: to ask for one of them alone is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Need:
    """What an option needs in order to do something.

    Attributes:
        name: of the option.
        met: options, as attributes -> whether it does something beside them.
        says: what is missing, after the name.
    """

    name: str
    met: Callable[[Any], bool]
    says: str


def trains_wide(options: Any) -> bool:
    """Whether the wide network is trained: where it has no weights for its data, or where that is asked for."""
    return options.checkpoint is None if options.epochs is None else options.epochs != 0


def _multistep(options: Any) -> bool:
    return bool(options.scheduler == "multistep")


def _taught(options: Any) -> bool:
    return options.teacher is not None


_STONES = "is for another scheduler: give `scheduler` as multistep"
_TEACHER = "weighs a teacher, and there is none: give `teacher`"
NEEDS = (
    Need("ema", trains_wide, "averages the wide network, which is not trained here: give `epochs`"),
    Need("decay_milestones", _multistep, _STONES),
    Need("csgd_decay_milestones", _multistep, _STONES),
    Need("clip_mode", lambda o: o.clip_grad is not None, "is how `clip_grad` bounds the gradient: give that bound"),
    Need("teacher_weight", _taught, _TEACHER),
    Need("teacher_temperature", _taught, "is that of a teacher, and there is none: give `teacher`"),
    Need(
        "teacher_model",
        lambda o: o.teacher not in (None, "wide"),
        "names the network of a file: give that file as `teacher`",
    ),
    Need("mixup_prob", lambda o: o.mixup or o.cutmix, "is how often batches are mixed: give `mixup` or `cutmix`"),
    Need("mixup_switch_prob", lambda o: o.mixup and o.cutmix, "chooses between `mixup` and `cutmix`: give both"),
)
