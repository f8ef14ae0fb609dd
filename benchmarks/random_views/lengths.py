"""Draw the sizes that a network states: numbers, or lengths that it reads from any tensor."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from benchmarks.random_networks import Draw

Pool = Sequence[Tensor]


@dataclass(frozen=True)
class Length:
    """A size: the lengths of some axes, times one number and divided by another.

    Attributes:
        axes: the place of a tensor in the pool, and the number of its axis.
        times: a number, or all of the size where no axis is read.
        over: a number.
        called: the network calls ``size(dim)`` instead of reading ``shape[dim]``.
    """

    axes: tuple[tuple[int, int], ...] = ()
    times: int = 1
    over: int = 1
    called: bool = False

    def of(self, pool: Pool) -> Any:
        """Compute the size from the tensors so far, which may be proxies."""
        read = [pool[place].size(dim) if self.called else pool[place].shape[dim] for place, dim in self.axes]
        total = functools.reduce(operator.mul, [*read, *([self.times] if self.times != 1 or not read else [])])
        return total // self.over if self.over != 1 else total

    def __str__(self) -> str:
        read = [f"#{place}.{f'size({dim})' if self.called else f'shape[{dim}]'}" for place, dim in self.axes]
        text = " * ".join([*read, *([str(self.times)] if self.times != 1 or not read else [])])
        return f"{text} // {self.over}" if self.over != 1 else text


OPEN = Length(times=-1)


def length(draw: Draw, pool: Pool, number: int) -> Length:
    """Draw a size that is this number at the example: most often one that the network reads."""
    if not draw.index(6):
        return Length(times=number)
    return draw.choice([*_lengths(pool, number, called=draw.whether()), Length(times=number)])


def lengths(draw: Draw, pool: Pool, numbers: Sequence[int]) -> list[Length]:
    """Draw sizes for these numbers; one of them may be open."""
    drawn = [length(draw, pool, number) for number in numbers]
    if drawn and not draw.index(3):
        drawn[draw.index(len(drawn))] = OPEN
    return drawn


def _lengths(pool: Pool, number: int, *, called: bool) -> Iterator[Length]:
    """Yield each length in the pool that gives a number; products and quotients last."""
    axes = [(place, dim, size) for place, x in enumerate(pool) for dim, size in enumerate(x.shape)]
    yield from (Length(((place, dim),), called=called) for place, dim, size in axes if size == number)
    for place, dim, size in axes:
        if size > number and size % number == 0:
            yield Length(((place, dim),), over=size // number, called=called)
        elif 1 < size < number and number % size == 0:
            yield Length(((place, dim),), times=number // size, called=called)
            others = [(at, axis) for at, axis, other in axes if other * size == number]
            yield from (Length(((place, dim), other), called=called) for other in others[-1:])


def texts(sizes: Sequence[Length]) -> str:
    """Show sizes, as the arguments of a view."""
    return ", ".join(map(str, sizes))
