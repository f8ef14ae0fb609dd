"""Options of each kind."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Union

from fxprune.passes.options.ranges import interval
from fxprune.passes.options.record import Options

if TYPE_CHECKING:
    from torch import nn


class Base(Options):
    """What is shared."""

    heading = "shared"

    size: Annotated[Literal["few", "many"], "how large"] = "few"


class Every(Base):
    """One option of each kind."""

    model: Annotated[Union[str, "nn.Module"], "a name, or a network, in two lines"]
    count: Annotated[int, interval(ge=-7), "how many"] = 3
    rate: float | None = None
    mixed: bool = False
    loud: bool | None = None
    file: str | os.PathLike[str] | None = None
    drops: Sequence[int] = ()
    betas: tuple[float, float] = (0.9, 0.999)
    names: list[str] = ["a"]  # noqa: RUF012
    stages: Sequence[float] | str | None = None
    clip: float | bool = 1.0
    widths: Mapping[str, int] | None = None
