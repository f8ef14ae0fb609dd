"""Declare the options of the main job, checked when they are made, and without torch."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, Union

from fxprune.arguments.outputs import as_outputs
from fxprune.common.addresses import MODELS
from fxprune.errors import OptionError

from .augment import Images
from .ranges import Range, interval
from .record import IN_PYTHON_ONLY, Options
from .requirements import REQUIRES, asks, exclude, excludes, trains_wide
from .target import CLUSTER_ON_IMAGES, Route, Target
from .training import FALLING, Milestones, Positive, TrainOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fxprune.models_zoo.data import Data, Loader

P = ParamSpec("P")
R = TypeVar("R")
EPOCHS = 10
# float32 rounds at about 1e-7 per weight; below 1e-6 the snap does not change predictions.
DEVIATION = 1e-6
# Half of :data:`fxprune.passes.rewrite.narrow.UNEQUAL`.
MOST_DEVIATION = 5e-3
_DEVIATION = interval(gt=0, le=MOST_DEVIATION)
_WHY = "C-SGD must end below 0.01, or the merge is not free, and weights, in whose size it counts, may shrink"


class Model(Options, kw_only=False):
    """The network to make narrow."""

    heading = "what and where to"

    model: Annotated[Union[str, "nn.Module"], f"{MODELS}; in Python, also a network with one input, which is copied"]


class Subject(Model, kw_only=False):
    """The network and the data to compress."""

    heading = "what and where to"

    data: Annotated[
        Union[str, "Data", tuple["Loader", "Loader"]],
        "digits, mnist5k, fashion-mnist, a folder of images or of IDX files, torch/NAME, hfds/NAME; in Python, also "
        "the data itself, or two loaders, to train and to test",
    ]


class Output(Options):
    """The options of the results and of what is printed."""

    heading = "what and where to"

    output: Annotated[
        str | os.PathLike[str],
        Range("the name of a folder", lambda output: os.fspath(output).strip() != ""),
        "folder for the results; replaces those of another run",
    ] = "out"
    progress: Annotated[bool | None, "bars and phases on stderr; default: on, bars on a terminal only"] = None


class Records(Output):
    """The options of the checkpoints and records of training."""

    heading = "what and where to"

    resume: Annotated[
        str | None,
        Range("`auto`, or left out", lambda resume: resume == "auto"),
        "auto: go on from the last checkpoint in the output folder, if there is one",
    ] = None
    checkpoint_every: Annotated[
        int, interval(ge=0), "steps from one checkpoint to the next; 0: only at the end of an epoch"
    ] = 500
    tensorboard: Annotated[bool, "also record the training for TensorBoard"] = False


class Machine(Options):
    """The options of the machine, and of the runtime for the exported file."""

    heading = "data and machine"

    data_root: Annotated[str | os.PathLike[str] | None, "folder to look for data sets in, and to put them into"] = None
    device: Annotated[str, "auto (CUDA if there is one), or a device of torch"] = "auto"
    opset: Annotated[int, interval(ge=17), "version of the ONNX operator set"] = 20


class WeightsFile(Options):
    """The option of a file of weights."""

    heading = "what and where to"

    checkpoint: Annotated[
        str | os.PathLike[str] | None,
        "weights of the network; a classifier for another number of classes is left out, and begins at random",
    ] = None


class Weights(WeightsFile):
    """The options of the wide network's weights."""

    heading = "what and where to"

    pretrained: Annotated[bool, "begin with published weights"] = False


class Wide(Weights):
    """The options of the wide network: its initial weights and its training."""

    heading = "training"

    epochs: Annotated[
        int | None,
        interval(ge=0),
        f"passes over the data before C-SGD; default: {EPOCHS}, or 0 with a checkpoint for these classes",
    ] = None
    lr: Annotated[Positive, "largest learning rate before C-SGD"] = 0.05
    teacher: Annotated[
        str | os.PathLike[str] | None,
        "network whose logits are the target: wide, the network before C-SGD, during C-SGD; or a file with weights, "
        "in all training",
    ] = None
    teacher_model: Annotated[str | None, "name of the network in that file; default: that of --model"] = None


class Centripetal(Options):
    """The options of C-SGD: its length, and how equal clusters become."""

    heading = "training"

    csgd_epochs: Annotated[int, interval(ge=1), "passes over the data with C-SGD, in each stage"] = 16
    csgd_lr: Annotated[Positive, "largest learning rate with C-SGD"] = 0.05
    csgd_decay_milestones: Annotated[
        Milestones, "multistep with C-SGD: the epochs after which the rate drops; default: --decay-milestones"
    ] = None
    strength: Annotated[float | None, interval(gt=0), "strength of the pull in clusters, instead of --deviation"] = None
    deviation: Annotated[
        float | None,
        _DEVIATION._replace(words=f"{_DEVIATION.words} ({_WHY})"),
        f"largest relative deviation within a cluster at the end; default: {DEVIATION}",
    ] = None
    coupled: Annotated[bool, "add the pull to the gradient, as in the paper; SGD only"] = False

    @property
    def goal(self) -> float:
        """The largest relative deviation within a cluster at the end of C-SGD."""
        return DEVIATION if self.deviation is None else self.deviation


class Judged(Options):
    """The loss and the metric of a network that does not classify; in Python only.

    What counts as outputs and targets: :mod:`fxprune.models_zoo.data.pairs` and :mod:`fxprune.models_zoo.data.task`.
    """

    heading = "training"

    loss: Annotated[
        Callable[[Any, Any], "Tensor"] | None,
        IN_PYTHON_ONLY,
        "(outputs, targets) of a batch -> a scalar; left out: cross entropy",
    ] = None
    metric: Annotated[
        Callable[[Any, Any], Any] | Any,
        IN_PYTHON_ONLY,
        "(outputs, targets) of all test samples -> a number; or reset, update and compute; left out: accuracy",
    ] = None
    higher_is_better: Annotated[
        bool | None, IN_PYTHON_ONLY, "direction of the metric; left out: as its attribute of that name says, or yes"
    ] = None
    outputs: Annotated[
        Sequence[str | int] | str | int | None,
        IN_PYTHON_ONLY,
        "beside metric: the outputs that count, as of `fxprune.couple`; left out: all",
    ] = None

    def options(self) -> dict[str, Any]:
        """Return every option as a JSON value, and a given loss and metric by their names."""
        judged = {
            "loss": _name_of(self.loss),
            "metric": _name_of(self.metric),
            "higher_is_better": self.higher_is_better,
            "outputs": None if self.outputs is None else ", ".join(as_outputs(self.outputs) or ()),
        }
        return super().options() | {name: value for name, value in judged.items() if value is not None}


class Job(Judged, Machine, Images, TrainOptions, Centripetal, Wide, Route, Target, Records, Subject):
    """The options of :func:`fxprune.compress`; the fields of its records explain them."""

    def __post_init__(self) -> None:
        """Check every option that does not need data or a network."""
        super().__post_init__()
        for names in excludes(self.stages):
            exclude(self, *names)
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise OptionError(f"`mixup` and `cutmix` mix images in pairs: `batch_size` {self.batch_size} must be even.")
        if self.widen is not None and not isinstance(self.model, str):
            raise OptionError("`widen` builds the network by its name: give `model` as a name, or give `widths`.")
        if self.outputs is not None and self.metric is None:
            raise OptionError("`outputs` chooses among several, which have no classes: give `loss` and `metric`, too.")
        own = "loss" if self.metric is None else "metric"
        for name in ("mixup", "cutmix", "label_smoothing") if getattr(self, own) is not None else ():
            if getattr(self, name):
                raise OptionError(f"`{name}` is for classes and cross entropy: leave it out beside `{own}`.")
        if self.metric is not None and self.teacher is not None:
            raise OptionError(
                "`teacher` compares logits of classes: leave it out beside `metric`, or put it into `loss`."
            )
        for need in REQUIRES:
            if asks(Job, need.name, getattr(self, need.name)) and not need.met(self):
                raise OptionError(f"`{need.name}` {need.says}.")
        for name in ("lr", "csgd_lr") if trains_wide(self) else ("csgd_lr",):
            if self.scheduler in FALLING and self.min_lr > getattr(self, name):
                raise OptionError(
                    f"`min_lr` {self.min_lr:g} is above `{name}` {getattr(self, name):g}: it would climb."
                )

    @property
    def clusters_by(self) -> str:
        """Return what channels are compared by: as asked, or what is best before C-SGD."""
        return self.cluster or (CLUSTER_ON_IMAGES if self.method == "kmeans" else "rows")

    def _milestones(self) -> Sequence[float] | None:
        """Return the milestones; those of C-SGD if nothing else is trained."""
        return self.decay_milestones or (None if trains_wide(self) else self.csgd_decay_milestones)

    def of_csgd(self) -> TrainOptions:
        """Return the options of C-SGD, without an average of weights, whose clusters would lag."""
        milestones = self.csgd_decay_milestones or self.decay_milestones
        return self.of_wide().replace(ema=None, decay_milestones=milestones)

    def of_wide(self) -> TrainOptions:
        """Return the options of the wide network's training."""
        return self.replace(decay_milestones=self._milestones()).only_of(TrainOptions)


def _name_of(given: Any) -> str | None:
    """Return where a function, or the class of an object, is defined."""
    named = given if hasattr(given, "__qualname__") else type(given)
    return None if given is None else f"{named.__module__}.{named.__qualname__}"


def with_options_of(record: Callable[P, Any]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Decorate a function with the options of a record, for editors and type checkers."""

    def decorate(function: Callable[..., R]) -> Callable[P, R]:
        import inspect  # not for --help: it is slow

        returns = inspect.signature(function).return_annotation
        signature = inspect.signature(record).replace(return_annotation=returns)
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    return decorate
