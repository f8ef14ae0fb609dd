"""Declare which options exclude each other, and which options require another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fxprune.errors import OptionError

from .fields import MISSING
from .record import options_of

_TARGETS = ("keep", "macs", "params", "latency", "widths", "plan_file")
_CHOICES = ("stages", "only", "freeze", "internal_only", "round_to", "target")
# Options that exclude each other; an option at its default does not count.
EXCLUDES: tuple[tuple[str, ...], ...] = (
    _TARGETS,
    # A plan or widths already determine what these options would.
    *((name, "plan_file") for name in (*_CHOICES, "method", "cluster")),
    *((name, "widths") for name in _CHOICES),
    *(("widen", name) for name in (*_TARGETS, *_CHOICES, "pretrained")),
    ("round_to", "target"),
    ("stages", "latency"),
    ("strength", "deviation"),
)
# The same, if ``stages`` are shares.
EXCLUDES_OF_SHARES = tuple(("stages", name) for name in ("keep", "macs", "params"))
# The same, of folding.
EXCLUDES_OF_FOLD: tuple[tuple[str, ...], ...] = (
    _TARGETS,
    *((name, "plan_file") for name in (*_CHOICES[1:], "method", "cluster")),
    *((name, "widths") for name in _CHOICES[1:]),
    *(("data", name) for name in ("inputs", "num_classes")),
)


def excludes(stages: object) -> tuple[tuple[str, ...], ...]:
    """Return the options that exclude each other; stages ``auto`` exclude no target."""
    return EXCLUDES if isinstance(stages, str) else EXCLUDES + EXCLUDES_OF_SHARES


def asks(record: type, name: str, value: object) -> bool:
    """Tell whether an option differs from its default; a required option always does."""
    default = options_of(record)[name].default
    return value is not None and (default is None or default is MISSING or value != default)


def exclude(options: object, *names: str) -> None:
    """Raise OptionError if more than one of these options is given."""
    given = [f"`{name}`" for name in names if asks(type(options), name, getattr(options, name))]
    if len(given) > 1:
        raise OptionError(f"{' and '.join(given)} exclude each other; give one of them.")


class Requirement(NamedTuple):
    """The requirement of an option that has no effect alone.

    Attributes:
        name: of the option.
        met: options, as attributes -> whether the requirement is met.
        says: what is missing, as a text that follows the name.
    """

    name: str
    met: Callable[[Any], bool]
    says: str


def trains_wide(options: Any) -> bool:
    """Tell whether the wide network is trained: without weights for its data, or by ``epochs``."""
    return options.checkpoint is None if options.epochs is None else options.epochs != 0


def _multistep(options: Any) -> bool:
    return bool(options.scheduler == "multistep")


def _taught(options: Any) -> bool:
    return options.teacher is not None


_MILESTONES = "is for another scheduler: give `scheduler` as multistep"
_TEACHER = "weighs a teacher, and there is none: give `teacher`"
# What only a budget of time needs, of every command.
_TIMED = "is for a budget of time: give `latency`"
TIMED = tuple(
    Requirement(name, lambda o: o.latency is not None, says)
    for name, says in {
        "runtime": _TIMED,
        "batch": f"{_TIMED} (a training has a `batch_size`)",
        "latency_table": _TIMED,
    }.items()
)
REQUIRES = (
    *TIMED,
    Requirement("ema", trains_wide, "averages the wide network, which is not trained here: give `epochs`"),
    Requirement("decay_milestones", _multistep, _MILESTONES),
    Requirement("csgd_decay_milestones", _multistep, _MILESTONES),
    Requirement(
        "clip_mode", lambda o: o.clip_grad is not None, "is how `clip_grad` bounds the gradient: give that bound"
    ),
    Requirement("teacher_weight", _taught, _TEACHER),
    Requirement("teacher_temperature", _taught, "is that of a teacher, and there is none: give `teacher`"),
    Requirement(
        "teacher_model",
        lambda o: o.teacher not in (None, "wide"),
        "names the network of a file: give that file as `teacher`",
    ),
    Requirement(
        "mixup_prob", lambda o: o.mixup or o.cutmix, "is how often batches are mixed: give `mixup` or `cutmix`"
    ),
    Requirement("mixup_switch_prob", lambda o: o.mixup and o.cutmix, "chooses between `mixup` and `cutmix`: give both"),
)
