"""Declare the options of training in every phase, checked when they are made, without torch."""

from collections.abc import Sequence
from typing import Annotated, Literal

from fxprune.errors import OptionError

from .ranges import Range, Share, interval, rises
from .record import Options

Scheduler = Literal["cosine", "tanh", "poly", "step", "multistep", "constant", "wsd", "rsqrt"]
Amp = Literal["float16", "bfloat16"]
# The schedulers that fall to ``min_lr``.
FALLING = ("cosine", "tanh", "poly", "wsd", "rsqrt")
Milestones = Annotated[Sequence[float] | None, Range("epochs above 0 in ascending order", rises)]
NotNegative = Annotated[float, interval(ge=0)]
Positive = Annotated[float, interval(gt=0)]
BelowOne = Annotated[float, interval(ge=0, lt=1)]


class TrainOptions(Options):
    """The options of :func:`fxprune.passes.train.fit.train`, most by timm's names.

    timm itself checks the name of the optimizer.
    """

    heading = "training"

    optimizer: Annotated[str, "name of an optimizer of timm; sgd has Nesterov momentum"] = "sgd"
    momentum: Annotated[BelowOne, "momentum, of the optimizers that have one"] = 0.9
    weight_decay: Annotated[NotNegative, "weight decay, of everything but vectors (biases, normalisations)"] = 5e-4
    scheduler: Annotated[Scheduler, "schedule of the learning rate"] = "cosine"
    warmup_epochs: Annotated[
        float | None, interval(ge=0), "epochs in which the rate rises; default: 1, or a fifth of a short training"
    ] = None
    min_lr: Annotated[NotNegative, "last learning rate, of the schedules that fall to one"] = 0.0
    decay_milestones: Annotated[Milestones, "multistep: the epochs after which the rate drops"] = None
    decay_epochs: Annotated[
        float | None,
        interval(gt=0),
        "step: epochs from drop to drop; wsd, rsqrt: length of the fall, or its share below 1",
    ] = None
    decay_rate: Annotated[
        float | None, interval(gt=0), "factor of a drop (default: 0.1), or power of poly (default: 1)"
    ] = None
    label_smoothing: Annotated[BelowOne, "share of the target spread over all classes"] = 0.0
    mixup: Annotated[NotNegative, "alpha of mixup; 0: none"] = 0.0
    cutmix: Annotated[NotNegative, "alpha of cutmix; 0: none"] = 0.0
    mixup_prob: Annotated[Share, "share of the batches that are mixed"] = 1.0
    mixup_switch_prob: Annotated[Share, "share of those that get cutmix, where both are on"] = 0.5
    teacher_temperature: Annotated[Positive, "divides the logits of network and teacher before they are compared"] = 4.0
    teacher_weight: Annotated[float, interval(gt=0, le=1), "share of the teacher in the loss"] = 0.5
    ema: Annotated[
        float | None,
        interval(gt=0, lt=1),
        "decay of a moving average of the wide network's weights, which replaces them",
    ] = None
    amp: Annotated[
        Amp | None, "compute in float16 (with a scaled loss) or bfloat16; weights and their updates stay in float32"
    ] = None
    channels_last: Annotated[
        bool, "hold images and weights channels last in memory, except layers that oneDNN gets wrong"
    ] = False
    accumulate: Annotated[int, interval(ge=1), "batches per optimizer step"] = 1
    clip_grad: Annotated[float | None, interval(gt=0), "bound of the gradient; default: no bound"] = None
    clip_mode: Annotated[
        Literal["norm", "value", "agc"],
        "what --clip-grad bounds: the norm of all, each value, or each row's norm relative to its weights (agc)",
    ] = "norm"

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        if self.scheduler == "multistep" and not self._milestones():
            raise OptionError(
                "`scheduler` is multistep: `decay_milestones` must say after which epochs the rate drops."
            )

    def _milestones(self) -> Sequence[float] | None:
        """Return where ``multistep`` drops the rate."""
        return self.decay_milestones


def short_warmup(epochs: int) -> float:
    """Return the default length of the warm-up: one epoch, or a fifth of a short training."""
    return min(1.0, epochs / 5)
