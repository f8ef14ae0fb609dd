"""Draw a convolution, views and what reads their axes, at sizes of images like the width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.random_networks import Draw, Unsuited
from fxprune.pytorch.torch_private import layer_table

from . import along, meetings  # noqa: F401  (they register operations)
from .lengths import Pool
from .operations import OPERATIONS, WIDTHS, Step, add, as_it_is, linear, mean, total

MOST_NUMBERS, MOST_AXES = 20_000, 6


class ViewNetwork(nn.Module):
    """Steps that run one after another; each may read the sizes of all tensors before.

    Attributes:
        shape: of the example, [batch, 3, height, width].
        steps: what each step shows and computes.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.steps: list[Step] = []

    def forward(self, x: Tensor) -> Tensor:
        """Run all steps."""
        pool = [x]
        for _, run in self.steps:
            pool.append(run(self, pool))
        return pool[-1]

    def __str__(self) -> str:
        lines = [f"#0: images {self.shape}", *(f"#{at}: {text}" for at, (text, _) in enumerate(self.steps, 1))]
        return "\n".join(lines)

    __repr__ = __str__


def build(draw: Draw, most: int) -> ViewNetwork:
    """Draw a network of at most so many operations behind a convolution."""
    width = draw.choice(WIDTHS)
    height, batch = draw.choice((width, width, 4, 1, 5, 3, 8)), draw.choice((2, 2, 1, width, 3))
    net = ViewNetwork((batch, 3, height, draw.choice((height, height, width, 1, 3))))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        name = add(net, nn.Conv2d(3, width, 3, padding=1))
        first: Step = (f"conv(3, {width})", lambda s, p: getattr(s, name)(p[-1]))
        pool = [torch.randn(net.shape, dtype=torch.float64)]
        _take(net, pool, first)
        for _ in range(1 + draw.index(most)):
            _operate(net, draw, pool, OPERATIONS[draw.index(len(OPERATIONS))])
        _operate(net, draw, pool, draw.choice((linear, linear, total, mean, as_it_is)))
    return net.eval()


def _operate(net: ViewNetwork, draw: Draw, pool: list[Tensor], operation: Any) -> None:
    """Add one more operation; nothing where it does not suit the last tensor."""
    layers = {*layer_table(net)}
    try:
        _take(net, pool, operation(net, draw, pool))
    except (Unsuited, RuntimeError, ValueError, IndexError):
        for name in {*layer_table(net)} - layers:
            delattr(net, name)


def _take(net: ViewNetwork, pool: list[Tensor], step: Step) -> None:
    given: Pool = pool
    made = step[1](net, given)
    if not 0 < made.numel() <= MOST_NUMBERS or not 0 < made.dim() <= MOST_AXES:
        raise Unsuited
    net.steps.append(step)
    pool.append(made)
