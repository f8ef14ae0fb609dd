"""Declare the options for how narrow a network becomes, and by which way."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from fxprune.errors import OptionError

from .ranges import Range, interval
from .record import Options
from .requirements import TIMED, exclude

# Where the narrow network is to run -> what widths should be multiples of there; docs/cli.md has the sources.
Hardware = Literal["onnxruntime", "tensorrt", "tensorrt-int8", "htp"]
MULTIPLES: Mapping[Hardware, int] = {"onnxruntime": 16, "tensorrt": 8, "tensorrt-int8": 16, "htp": 32}
# Where the time of a network can be measured.
Runtime = Literal["onnxruntime", "eager", "compiled"]
RUNTIMES: tuple[str, ...] = get_args(Runtime)
Share = Annotated[float | None, interval(gt=0, le=1, noun="a share")]
Patterns = Annotated[Sequence[str] | None, Range("a list of patterns", lambda each: each and not isinstance(each, str))]

# How compress and fold compare channels where there are images: docs/reports/prices.md compares the ways.
CLUSTER_ON_IMAGES = "activations"


class Target(Options):
    """The options for how narrow a network becomes; see :func:`fxprune.plan`."""

    heading = "how narrow"

    keep: Annotated[Share, "share of the channels of every group to keep; default: 0.5"] = None
    macs: Annotated[Share, "instead: share of the multiply-accumulates to keep"] = None
    params: Annotated[Share, "instead: share of the parameters to keep"] = None
    latency: Annotated[Share, "instead: share of the time to keep, measured here or elsewhere"] = None
    widths: Annotated[Mapping[str, int] | None, "instead: channels to keep, for each group by its name"] = None
    method: Annotated[Literal["kmeans", "even", "imbalanced"], "how to find clusters"] = "kmeans"
    cluster: Annotated[
        Literal["rows", "activations", "outputs"] | None,
        "what kmeans compares: the weights of channels (rows), their activations on images, or the outputs that layers "
        "make of these; no labels; default: rows, in compress and fold activations where there are images",
    ] = None
    round_to: Annotated[int, interval(ge=1), "make widths multiples of this, where a group can"] = 1
    target: Annotated[
        Hardware | None,
        "instead: where the network will run, whose multiple applies: "
        + ", ".join(f"{name} {number}" for name, number in MULTIPLES.items()),
    ] = None
    runtime: Annotated[Runtime | None, "for --latency: what to time; default: as in the table, or onnxruntime"] = None
    batch: Annotated[int | None, interval(ge=1), "for --latency: samples at once; default: as in the table, or 1"] = (
        None
    )
    latency_table: Annotated[
        str | os.PathLike[str] | None, "for --latency: a file of `fxprune latency`, instead of timing on this machine"
    ] = None
    seed: Annotated[int, interval(ge=0), "seed of all random numbers"] = 0
    only: Annotated[Patterns, "narrow only groups that match one of these patterns"] = None
    freeze: Annotated[Patterns, "keep the widths of groups that match one of these patterns"] = None
    internal_only: Annotated[bool, "narrow only what lies inside a residual branch"] = False

    def __post_init__(self) -> None:
        """Check every option except the widths, which need the network."""
        super().__post_init__()
        exclude(self, "keep", "macs", "params", "latency", "widths")
        for name in ("round_to", "target"):
            exclude(self, "widths", name)
        exclude(self, "round_to", "target")
        for need in TIMED:
            if getattr(self, need.name) is not None and not need.met(self):
                raise OptionError(f"`{need.name}` {need.says}.")
        if self.latency is not None and self.target not in (None, "onnxruntime") and self.latency_table is None:
            raise OptionError(
                f"`target: {self.target}` cannot be timed here, only {', '.join(RUNTIMES)}, and no command of fxprune "
                f"times it elsewhere: give `round_to` {self.multiple} instead, or, as a stand-in, a `latency_table` of "
                "one of these with that `round_to`."
            )
        if self.method != "kmeans" and self.cluster not in (None, "rows"):
            raise OptionError(f"`cluster: {self.cluster}` is for the method kmeans; `{self.method}` compares nothing.")

    @property
    def clusters_by(self) -> str:
        """Return what channels are compared by: as asked, or the default."""
        return self.cluster or "rows"

    @property
    def multiple(self) -> int:
        """The number of which widths should be multiples."""
        return self.round_to if self.target is None else MULTIPLES[self.target]

    @property
    def needs_images(self) -> bool:
        """Tell whether clusters depend on images."""
        return self.clusters_by != "rows"


def _falls(stages: Any) -> bool:
    if isinstance(stages, str):
        return stages == "auto"
    shares = [1.0, *stages]
    return len(shares) > 1 and all(0.0 < after < before for before, after in itertools.pairwise(shares))


class PlanFile(Options):
    """The option of an earlier plan."""

    heading = "how narrow"

    plan_file: Annotated[
        str | os.PathLike[str] | None, "a file of `fxprune plan -o`, instead of --keep and the like"
    ] = None


class Route(PlanFile):
    """The way to the target: by an earlier plan, in stages, or from a wider network."""

    heading = "how narrow"

    stages: Annotated[
        Sequence[float] | str | None,
        Range("shares from 1 to 0 that fall, or `auto`", _falls),
        "narrow step by step: falling shares of the first width, the last is the goal; or auto: reach --keep, --macs "
        "or --params in three stages, which remove a half, a third and a sixth of the difference",
    ] = None
    widen: Annotated[
        float | None, interval(gt=1), "build the network this many times as wide, and bring it back to its own width"
    ] = None
