"""Options of each kind."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from fxprune.passes.options.fields import Options
from fxprune.passes.options.ranges import interval

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Base(Options):
    """What is shared."""

    heading = "shared"

    size: Annotated[Literal["few", "many"], "how large"] = "few"


@dataclass(frozen=True, kw_only=True)
class Every(Base):
    """One option of each kind."""

    model: Annotated[str | nn.Module, "a name, or a network, in two lines"]
    count: Annotated[int, interval(ge=-7), "how many"] = 3
    rate: float | None = None
    mixed: bool = False
    loud: bool | None = None
    file: str | os.PathLike[str] | None = None
    drops: Sequence[int] = ()
    betas: tuple[float, float] = (0.9, 0.999)
    names: list[str] = field(default_factory=lambda: ["a"])
    stages: Sequence[float] | str | None = None
    clip: float | bool = 1.0
    widths: Mapping[str, int] | None = None
