"""What the main job is to do: checked when it is made, and free of torch, so that a command line can make it."""

from __future__ import annotations

import itertools
import math
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from fxprune.errors import OptionError

from .augment import RANGES
from .requirements import NEEDS, trains_wide
from .training import FALLING, TrainOptions, check

if TYPE_CHECKING:
    from torch import nn

    from fxprune.coupling import Coupling
    from fxprune.models_zoo.data import Data
    from fxprune.plans import Plan

METHODS = ("kmeans", "even", "imbalanced")
ALLOCATIONS = ("uniform", "auto")
# Options that exclude each other; one at its default does not count.
RIVALS: tuple[tuple[str, ...], ...] = (
    ("keep", "macs", "params", "widths", "plan_file"),
    # A plan and widths say by themselves what these would decide.
    *((name, "plan_file") for name in ("stages", "only", "freeze", "internal_only", "round_to", "method", "allocate")),
    *((name, "widths") for name in ("stages", "only", "freeze", "internal_only", "round_to", "allocate")),
    ("keep", "allocate"),
    *(("widen", name) for name in ("keep", "macs", "params", "widths", "plan_file", "stages", "only", "freeze")),
    *(("widen", name) for name in ("internal_only", "round_to", "pretrained")),
    ("strength", "deviation"),
)
# The same, where ``stages`` are shares.
RIVALS_OF_SHARES = tuple(("stages", name) for name in ("keep", "macs", "params", "allocate"))


@dataclass(frozen=True, kw_only=True)
class Target:
    """How narrow a network shall become; see :func:`fxprune.plan`.

    Attributes:
        keep: share of the channels of every group to keep, above 0, up to 1; 0.5 where nothing is asked for.
        macs: instead: share of the network's multiply-accumulates to end at.
        params: instead: share of the network's parameters to end at.
        widths: instead: group name -> channels to keep.
        method: how clusters are found, one of ``METHODS``.
        round_to: make widths multiples of this, where a group can.
        seed: of everything that is drawn at random.
        only: patterns; groups that match none of them keep their widths.
        freeze: patterns; groups that match one of them keep their widths.
        internal_only: narrow only what lies inside a residual branch.
        allocate: how a budget is shared out among the groups, one of ``ALLOCATIONS``.
    """

    keep: float | None = None
    macs: float | None = None
    params: float | None = None
    widths: Mapping[str, int] | None = None
    method: str = "kmeans"
    round_to: int = 1
    seed: int = 0
    only: Sequence[str] | None = None
    freeze: Sequence[str] | None = None
    internal_only: bool = False
    allocate: str = "uniform"

    def __post_init__(self) -> None:
        """Check every option; the widths wait for the network."""
        for name in ("keep", "macs", "params"):
            check(self, name, "a share above 0 and up to 1", lambda share: 0.0 < share <= 1.0)
        check(self, "round_to", "1 or more", lambda n: n >= 1)
        check(self, "seed", "0 or more", lambda n: n >= 0)
        check(self, "method", f"one of {', '.join(METHODS)}", METHODS.__contains__)
        check(self, "allocate", f"one of {', '.join(ALLOCATIONS)}", ALLOCATIONS.__contains__)
        for name in ("only", "freeze"):
            check(self, name, "a list of patterns", lambda patterns: patterns and not isinstance(patterns, str))
        if self.allocate == "auto" and self.macs is None and self.params is None:
            raise OptionError("`allocate: auto` shares out a budget; give `macs` or `params`.")
        exclude(self, "keep", "macs", "params", "widths")
        exclude(self, "widths", "round_to")

    def plan(self, coupling: Coupling, *, method: str | None = None) -> Plan:
        """Clusters that reach the target, as :func:`fxprune.plan` finds them.

        Args:
            coupling: the analysis.
            method: instead of the target's own.

        Raises:
            NothingToPruneError: the coupling has no groups.
            PlanError: widths that cannot be had.
        """
        import fxprune

        return fxprune.plan(
            coupling,
            self.keep,
            macs=self.macs,
            params=self.params,
            widths=self.widths,
            method=method or self.method,
            round_to=self.round_to,
            seed=self.seed,
            only=self.only,
            freeze=self.freeze,
            internal_only=self.internal_only,
            allocate=self.allocate,
        )


@dataclass(frozen=True, kw_only=True)
class Job(TrainOptions, Target):
    """The options of :func:`fxprune.compress`, beside those of :class:`Target` and :class:`TrainOptions`.

    Attributes:
        model: timm name, torchvision/NAME, or one of ours (resnet56, ...); in Python, also a network with one input,
            which is copied.
        data: digits, mnist5k, a folder of images, torch/NAME, hfds/NAME; in Python, also the data itself.
        output: folder for the results; what another run left there is replaced.
        plan_file: a plan made earlier, instead of ``keep`` and its like.
        checkpoint: weights of the wide network for this data; it is not trained then, unless ``epochs`` says so.
        pretrained: begin with published weights.
        image_size: height and width of the images in pixels; None: what suits the data.
        batch_size: images per training step.
        epochs: passes over the data before C-SGD; None: ``EPOCHS``, or 0 with a checkpoint.
        csgd_epochs: passes over the data with C-SGD, in each stage.
        lr: largest learning rate before C-SGD.
        csgd_lr: largest learning rate with C-SGD.
        csgd_decay_milestones: ``multistep``: of C-SGD, where they are not ``decay_milestones``.
        teacher: whose logits the network is to meet: ``wide``, the network before C-SGD, for C-SGD alone; or a file
            with weights, for all training.
        teacher_model: name of the network that the file holds; None: ``model``, as widened or as it is by name.
        strength: of the pull; instead of ``deviation``.
        deviation: largest relative deviation within a cluster to end at, above 0 and up to ``MOST_DEVIATION``;
            ``DEVIATION`` where neither is given.
        coupled: the pull is part of the gradient, as in the paper; SGD only.
        stages: narrow step by step: shares of the first width to keep, falling, the last is the goal; or ``auto``: to
            ``keep``, ``macs`` or ``params`` in three stages, by a half, a third and a sixth of what is to go.
        widen: build the network this many times as wide, and bring it back to its own width.
        device: ``auto`` (CUDA where there is one), or any name that torch knows.
        opset: version of the ONNX operators.
        workers: processes that decode images.
        data_root: where data sets are looked for or put.
        auto_augment: timm's name of a policy, as ``rand-m9-mstd0.5``; for images that timm reads.
        random_erasing: share of the training images of which a part is erased; for images that timm reads.
        hflip: share of the training images that are mirrored left to right; None: 0.5; for images that timm reads.
        vflip: share of the training images that are mirrored upside down; for images that timm reads.
        crop_scale: least and largest share of its area that is cut out of a training image; None: 0.08 and 1, or 0.7
            and 1 for images of up to 64 pixels per side; for images that timm reads.
        crop_ratio: least and largest width over height of that cut; None: 3/4 and 4/3, or 0.9 and 1.1 for images of up
            to 64 pixels per side; for images that timm reads.
        color_jitter: by which share brightness, contrast and saturation of the training images may change, without
            effect beside a policy other than ``3a``; None: 0.4, or 0 for images that are grey or of up to 64 pixels
            per side; for images that timm reads.
        crop_pct: share of the side of a test image that is cut out of its middle; None: 0.875, or 1 for images of up to
            64 pixels per side; for images that timm reads.
        checkpoint_every: steps from one checkpoint to the next; 0: only at the end of an epoch.
        resume: ``auto``: go on from the last checkpoint in the output folder, where there is one.
        tensorboard: record the training for TensorBoard, too.
        progress: bars and phases on stderr; None: bars only on a terminal.
    """

    model: str | nn.Module
    data: str | Data
    output: str | os.PathLike[str] = "out"
    plan_file: str | os.PathLike[str] | None = None
    checkpoint: str | os.PathLike[str] | None = None
    pretrained: bool = False
    image_size: int | None = None
    batch_size: int = 64
    epochs: int | None = None
    csgd_epochs: int = 16
    lr: float = 0.05
    csgd_lr: float = 0.05
    csgd_decay_milestones: Sequence[float] | None = None
    teacher: str | os.PathLike[str] | None = None
    teacher_model: str | None = None
    strength: float | None = None
    deviation: float | None = None
    coupled: bool = False
    stages: Sequence[float] | str | None = None
    widen: float | None = None
    device: str = "auto"
    opset: int = 18
    workers: int = 0
    data_root: str | os.PathLike[str] | None = None
    auto_augment: str | None = None
    random_erasing: float = 0.0
    hflip: float | None = None
    vflip: float = 0.0
    crop_scale: Sequence[float] | None = None
    crop_ratio: Sequence[float] | None = None
    color_jitter: float | None = None
    crop_pct: float | None = None
    checkpoint_every: int = 500
    resume: str | None = None
    tensorboard: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        """Check every option that can be checked before anything is loaded."""
        Target.__post_init__(self)
        TrainOptions.__post_init__(self)
        for name, least in _LEAST.items():
            check(self, name, f"{least} or more", partial(operator.le, least))
        why = "C-SGD must end below 0.01, or the merge is not free, and weights, in whose size it counts, may shrink"
        range_ = f"above 0 and up to {MOST_DEVIATION:g} ({why})"
        check(self, "deviation", range_, lambda x: 0.0 < x <= MOST_DEVIATION)
        for name in ("lr", "csgd_lr", "strength"):
            check(self, name, "above 0", lambda x: 0.0 < x < math.inf)
        for name, (range_, holds) in RANGES.items():
            check(self, name, range_, holds)
        check(self, "output", "the name of a folder", lambda output: os.fspath(output) != "")
        check(self, "resume", "`auto`, or left out", "auto".__eq__)
        self._check_milestones("csgd_decay_milestones")
        for names in rivals(self.stages):
            exclude(self, *names)
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise OptionError(f"`mixup` and `cutmix` mix images in pairs: `batch_size` {self.batch_size} must be even.")
        check(self, "widen", "above 1", lambda factor: 1.0 < factor < math.inf)
        check(self, "stages", "shares from 1 to 0 that fall, or `auto`", _falls)
        if self.widen is not None and not isinstance(self.model, str):
            raise OptionError("`widen` builds the network by its name: give `model` as a name, or give `widths`.")
        for need in NEEDS:
            if asks(need.name, getattr(self, need.name)) and not need.met(self):
                raise OptionError(f"`{need.name}` {need.says}.")
        for name in ("lr", "csgd_lr") if trains_wide(self) else ("csgd_lr",):
            if self.scheduler in FALLING and self.min_lr > getattr(self, name):
                raise OptionError(
                    f"`min_lr` {self.min_lr:g} is above `{name}` {getattr(self, name):g}: it would climb."
                )

    def _milestones(self) -> Sequence[float] | None:
        """Those of C-SGD will do where nothing else is trained."""
        return self.decay_milestones or (None if trains_wide(self) else self.csgd_decay_milestones)

    def of_csgd(self) -> TrainOptions:
        """How C-SGD trains. No average of weights: its clusters would lag behind those of the weights themselves."""
        options = self.of_wide()
        stones = self.csgd_decay_milestones or self.decay_milestones
        return replace(options, ema=None, decay_milestones=stones)

    def of_wide(self) -> TrainOptions:
        """How the wide network is trained."""
        options = {field.name: getattr(self, field.name) for field in fields(TrainOptions)}
        return TrainOptions(**options | {"decay_milestones": self._milestones()})

    def options(self) -> dict[str, Any]:
        """Every option that JSON can hold; a network or data that was given as such is named by its class."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


_LEAST = {"image_size": 8, "batch_size": 2, "epochs": 0, "csgd_epochs": 1, "workers": 0, "checkpoint_every": 0}
EPOCHS = 10
# float32 rounds at about 1e-7 per weight; below 1e-6 the snap changes nothing that a prediction could show.
DEVIATION = 1e-6
# Half of what :data:`fxprune.passes.rewrite.narrow.UNEQUAL` lets pass.
MOST_DEVIATION = 5e-3


def rivals(stages: object) -> tuple[tuple[str, ...], ...]:
    """Names of options that exclude each other, beside these stages: ``auto`` leads to what another option asks for."""
    return RIVALS if isinstance(stages, str) else RIVALS + RIVALS_OF_SHARES


def asks(name: str, value: object) -> bool:
    """Whether an option of a job has another value than its default; one that has none always does."""
    default = Job.__dataclass_fields__[name].default
    return value is not None and (default is None or value != default)


def exclude(options: object, *names: str) -> None:
    """Raise OptionError where more than one of these options asks for something."""
    given = [f"`{name}`" for name in names if asks(name, getattr(options, name))]
    if len(given) > 1:
        raise OptionError(f"{' and '.join(given)} exclude each other; give one of them.")


def _falls(stages: Any) -> bool:
    if isinstance(stages, str):
        return stages == "auto"
    shares = [1.0, *stages]
    return len(shares) > 1 and all(0.0 < after < before for before, after in itertools.pairwise(shares))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if value is None or isinstance(value, str | int | float) else type(value).__name__
