"""Options of each kind."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

WORDS = ("few", "many")


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is shared.

    Attributes:
        size: how large, one of ``WORDS``; see :func:`fxprune.plan`.
    """

    size: str = "few"


@dataclass(frozen=True, kw_only=True)
class Every(Base):
    """One option of each kind.

    Attributes:
        model: a name, or a network,
            in two lines.
        count: how many.
    """

    model: str | nn.Module
    count: int = 3
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
