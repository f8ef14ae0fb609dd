"""A sample is a tiny network and what must be found in it: the width of every group, and words of what is frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

A, B = "a.weight", "b.weight"  # the groups that the first and the second layer of a frame make


class Net(nn.Module):
    """Layers by name, and a function of them and the inputs."""

    def __init__(self, forward: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.run(self, *inputs)


@dataclass(frozen=True, eq=False)
class Sample:
    """A network, its inputs, the same at another batch and image size (None: it takes no other size), what to find."""

    net: nn.Module
    inputs: tuple[Tensor, ...]
    other: tuple[Tensor, ...] | None
    widths: Mapping[str, int]
    frozen: str


SAMPLES: dict[str, Sample] = {}


def conv(inner: int, outer: int, kernel: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, kernel, padding=kernel // 2, **options)


def linear(inner: int, outer: int, **options: Any) -> nn.Linear:
    return nn.Linear(inner, outer, **options)


def free(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))


def net(
    name: str,
    forward: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    other: tuple[Tensor, ...] | None,
    widths: Mapping[str, int],
    *,
    frozen: str = "",
    **layers: Any,
) -> None:
    """A whole network."""
    assert name not in SAMPLES, name
    SAMPLES[name] = Sample(Net(forward, **layers).eval(), inputs, other, widths, frozen)


def image(
    name: str,
    op: Callable[..., Any],
    widths: Mapping[str, int],
    *,
    width: int = 8,
    out: int | None = None,
    fixed: bool = False,
    frozen: str = "",
    **layers: Any,
) -> None:
    """``op`` on [N, width, H, W], between a convolution and another: a -> op -> b -> mean over space -> head."""

    def forward(s: Any, x: Tensor) -> Tensor:
        return s.head(F.gelu(s.b(op(s, s.a(x)))).mean((2, 3)))

    inputs, other = (torch.zeros(2, 3, 8, 8),), (torch.zeros(3, 3, 12, 10),)
    layers = {"a": conv(3, width), "b": conv(out or width, 6), "head": linear(6, 4), **layers}
    net(name, forward, inputs, None if fixed else other, widths, frozen=frozen, **layers)


def tokens(
    name: str,
    op: Callable[..., Any],
    widths: Mapping[str, int],
    *,
    width: int = 8,
    out: int | None = None,
    length: int = 5,
    fixed: bool = False,
    frozen: str = "",
    **layers: Any,
) -> None:
    """``op`` on [N, length, width], between two layers: a -> op -> head."""

    def forward(s: Any, x: Tensor) -> Tensor:
        return s.head(op(s, s.a(x)))

    inputs, other = (torch.zeros(2, length, 3),), (torch.zeros(3, 7, 3),)
    layers = {"a": linear(3, width), "head": linear(out or width, 4), **layers}
    net(name, forward, inputs, None if fixed else other, widths, frozen=frozen, **layers)
