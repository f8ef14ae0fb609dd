"""Random networks, one per seed: a pool of feature maps grows by operations on its members, and much of it is read.

As a script, ``python tests/random_nets.py FIRST LAST`` proves the networks of a range of seeds and prints failures.
"""

from __future__ import annotations

import random
import sys

import torch
import torch.nn.functional as F
from random_operations import LATER, MORE, OPERATIONS
from samples import conv, linear
from torch import nn

import fxprune
from fxprune.errors import FxpruneError, NothingToPruneError

SIZES = ((4, 6), (8, 8), (6, 4))


class RandomNet(nn.Module):
    """Steps run in order, each on members of the pool; the head reads some members."""

    def __init__(self, seed: int, steps: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.widths = [draw.choice((4, 6, 8, 12))]
        self.stem = conv(3, self.widths[0], 3)
        self.steps = []
        while len(self.steps) < steps:
            self._step(draw, draw.choice(OPERATIONS if seed < LATER else MORE))
        self.read = sorted({len(self.widths) - 1, *draw.sample(range(len(self.widths)), 3)})
        self.head = linear(sum(self.widths[place] for place in self.read), 5)

    def _step(self, draw: random.Random, operation) -> None:
        """Add an operation on a map, others of its width, and one of any width, unless it refuses."""
        first = draw.randrange(len(self.widths))
        alike = [place for place, width in enumerate(self.widths) if width == self.widths[first]]
        places = (first, draw.choice(alike), draw.choice(alike), draw.randrange(len(self.widths)))
        made = operation(self, draw, self.widths[first], self.widths[places[3]])
        if made is not None and made[1] <= 32:
            self.steps.append((operation.__name__, made[0], places))
            self.widths.append(made[1])

    def add(self, layer) -> str:
        """Name of a new layer or parameter."""
        name = f"layer{len(self._modules) + len(self._parameters)}"
        setattr(self, name, layer)
        return name

    def forward(self, x):
        pool = [self.stem(x)]
        for _, step, places in self.steps:
            pool.append(step(self, *(pool[place] for place in places)))
        return self.head(torch.cat([F.gelu(pool[place]).mean((2, 3)) for place in self.read], 1))

    def __str__(self) -> str:
        lines = [f"{name}{places} -> {width}" for (name, _, places), width in zip(self.steps, self.widths[1:])]
        return "; ".join([f"stem -> {self.widths[0]}", *lines, f"head reads {self.read}"])


def random_net(seed: int, steps: int = 8) -> tuple[RandomNet, torch.Tensor]:
    """The network of a seed, and images for it; sizes differ from seed to seed, and some are like widths."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return RandomNet(seed, steps).eval(), torch.zeros(2, 3, *SIZES[seed % len(SIZES)])


def verdict(seed: int) -> str:
    """What is wrong with the network of a seed; empty where nothing is."""
    net, images = random_net(seed)
    try:
        proof = fxprune.prove(net, images)
    except NothingToPruneError:
        return ""
    except FxpruneError as error:
        return f"seed {seed}: {net}\n{type(error).__name__}: {error}"
    return "" if proof.passed else f"seed {seed}: {net}\n{proof}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for wrong in filter(None, map(verdict, range(int(sys.argv[1]), int(sys.argv[2])))):
        print(wrong, end="\n\n", flush=True)
