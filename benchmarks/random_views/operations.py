"""List the operations of networks of views; each adds a step on the last tensor, or refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.random_networks import Draw, Unsuited
from fxprune.pytorch.torch_private import layer_table

from .lengths import Length, Pool, length, lengths, texts

# What a step shows, and what it computes from a network and its tensors so far, of which it changes the last.
Step = tuple[str, Callable[[Any, Pool], Tensor]]
Operation = Callable[[nn.Module, Draw, Pool], Step]

OPERATIONS: list[Operation] = []
WIDTHS = (4, 6, 8)


def operation(often: int = 1) -> Callable[[Operation], Operation]:
    """Register an operation, ``often`` times as likely as others."""

    def register(function: Operation) -> Operation:
        OPERATIONS.extend([function] * often)
        return function

    return register


@operation(often=5)
def view(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """State sizes, with axes exchanged, joined, parted, or as they are."""
    shape = list(pool[-1].shape)
    kind, at = draw.choice(("exchanged", "joined", "parted", "again", "same")), draw.index(len(shape))
    if kind == "exchanged":
        other = draw.index(len(shape))
        shape[at], shape[other] = shape[other], shape[at]
    if kind in ("joined", "again"):
        shape[at : at + 2] = [math.prod(shape[at : at + 2])]
    if kind in ("parted", "again"):
        part = draw.divisor(shape[at])
        shape[at : at + 1] = [part, shape[at] // part]
    sizes, name = lengths(draw, pool, shape), draw.choice(("reshape", "view"))
    return f"{name}({texts(sizes)})", lambda s, p: getattr(p[-1], name)(*_of(sizes, p))


@operation(often=2)
def flatten(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Join a run of axes."""
    first, last = sorted(_axes(draw, pool, 2))
    return f"flatten({first}, {last})", lambda s, p: p[-1].flatten(first, last)


@operation(often=2)
def unflatten(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Part an axis into two."""
    (dim,) = _axes(draw, pool, 1)
    size = pool[-1].shape[dim]
    part = draw.divisor(size)
    sizes = lengths(draw, pool, [part, size // part])
    return f"unflatten({dim}, ({texts(sizes)}))", lambda s, p: p[-1].unflatten(dim, tuple(_of(sizes, p)))


@operation(often=2)
def permute(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Order the axes anew, with or without a copy."""
    rest = list(range(pool[-1].dim()))
    order = [rest.pop(draw.index(len(rest))) for _ in range(len(rest))]
    copied = draw.whether()
    text = f"permute({', '.join(map(str, order))}){'.contiguous()' if copied else ''}"
    return text, lambda s, p: p[-1].permute(*order).contiguous() if copied else p[-1].permute(*order)


@operation()
def transpose(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Exchange two axes."""
    one, other = _axes(draw, pool, 2)
    return f"transpose({one}, {other})", lambda s, p: p[-1].transpose(one, other)


@operation()
def halves(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Split an axis into two, and join, add or multiply them."""
    (dim,) = _axes(draw, pool, 1)
    half = length(draw, pool, _even(pool[-1].shape[dim]) // 2)
    name, join = draw.choice((("added", torch.add), ("multiplied", torch.mul), ("exchanged", None)))

    def run(s: Any, p: Pool) -> Tensor:
        one, other = p[-1].split(half.of(p), dim)
        return torch.cat([other, one], dim) if join is None else join(one, other)

    return f"split({half}, {dim}), {name}", run


@operation()
def cut(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Take a part of an axis."""
    (dim,) = _axes(draw, pool, 1)
    start = draw.index(pool[-1].shape[dim])
    size = length(draw, pool, draw.between(1, pool[-1].shape[dim] - start))
    return f"narrow({dim}, {start}, {size})", lambda s, p: p[-1].narrow(dim, start, size.of(p))


@operation()
def expand(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Add the mean over an axis, expanded."""
    (dim,) = _axes(draw, pool, 1)
    sizes = lengths(draw, pool, pool[-1].shape)
    return (
        f"+ mean({dim}).expand({texts(sizes)})",
        lambda s, p: p[-1] + p[-1].mean(dim, keepdim=True).expand(*_of(sizes, p)),
    )


@operation()
def repeat(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Repeat an axis twice."""
    (dim,) = _axes(draw, pool, 1)
    counts = [2 if at == dim else 1 for at in range(pool[-1].dim())]
    return f"repeat({counts})", lambda s, p: p[-1].repeat(*counts)


@operation()
def roll(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Move the positions of an axis on."""
    (dim,) = _axes(draw, pool, 1)
    by = length(draw, pool, draw.between(1, pool[-1].shape[dim]))
    return f"roll({by}, {dim})", lambda s, p: p[-1].roll(by.of(p), dim)


@operation()
def pick(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Pick positions by an index that the network makes."""
    (dim,) = _axes(draw, pool, 1)
    count, flipped = length(draw, pool, pool[-1].shape[dim]), draw.whether()
    text = f"index_select({dim}, arange({count}){'.flip(0)' if flipped else ''})"
    return text, lambda s, p: p[-1].index_select(dim, torch.arange(count.of(p)).flip(0 if flipped else ()))


@operation()
def pad(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Pad an axis on both sides."""
    (dim,) = _axes(draw, pool, 1)
    more = length(draw, pool, draw.between(1, 2))
    before, zeros = draw.index(2), [0, 0] * (pool[-1].dim() - 1 - dim)
    return f"pad({dim}, {before}, {more})", lambda s, p: F.pad(p[-1], (*zeros, before, more.of(p)))


@operation()
def join(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Join the last tensor with any of its shape."""
    (dim,) = _axes(draw, pool, 1)
    place = draw.choice([place for place, x in enumerate(pool) if x.shape == pool[-1].shape])
    return f"cat([., #{place}], {dim})", lambda s, p: torch.cat([p[-1], p[place]], dim)


@operation()
def scale(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Multiply or divide by a size, or divide by the count of all numbers."""
    (dim,) = _axes(draw, pool, 1)
    size = length(draw, pool, pool[-1].shape[dim])
    return draw.choice(
        (
            (f"* {size}", lambda s, p: p[-1] * size.of(p)),
            (f"/ sqrt({size})", lambda s, p: p[-1] / size.of(p) ** 0.5),
            ("/ numel()", lambda s, p: p[-1] / p[-1].numel()),
        )
    )


@operation()
def ramp(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Multiply by numbers along an axis, made in a size."""
    (dim,) = _axes(draw, pool, 1)
    size = length(draw, pool, pool[-1].shape[dim])
    ones = [-1 if at == dim else 1 for at in range(pool[-1].dim())]
    name, make = draw.choice(
        (
            ("linspace", lambda count: torch.linspace(0, 1, count)),
            ("arange", torch.arange),
            ("full", lambda count: torch.full((count,), 0.5)),
        )
    )
    return f"* {name}({size}) on {dim}", lambda s, p: p[-1] * make(size.of(p)).to(p[-1].dtype).view(*ones)


@operation()
def unfold(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Take windows of two along an axis."""
    (dim,) = _axes(draw, pool, 1)
    step = draw.between(1, 2)
    return f"unfold({dim}, 2, {step})", lambda s, p: p[-1].unfold(dim, 2, step)


@operation()
def mix(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Let positions of an axis meet: a product, a softmax, a running sum, a sum."""
    (dim,) = _axes(draw, pool, 1)
    return draw.choice(
        (
            ("@ mT", lambda s, p: p[-1] @ p[-1].transpose(-1, -2)),
            (f"softmax({dim})", lambda s, p: p[-1].softmax(dim)),
            (f"cumsum({dim})", lambda s, p: p[-1].cumsum(dim)),
            (f"+ sum({dim})", lambda s, p: p[-1] + p[-1].sum(dim, keepdim=True)),
        )
    )


@operation()
def sine(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Change each number by itself, with a function whose order the rewrite does not know."""
    return "sin()", lambda s, p: p[-1].sin()


@operation()
def image(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Read four axes as images: shuffled into pixels, resized, or convolved."""
    if pool[-1].dim() != 4:
        raise Unsuited
    _, width, *space = pool[-1].shape
    kind = draw.choice(("convolved", "resized", "shuffled"))
    if kind == "shuffled":
        return "pixel_shuffle(2)", lambda s, p: F.pixel_shuffle(p[-1], 2)
    if kind == "resized":
        sizes = [length(draw, pool, size) for size in space]
        return f"interpolate({texts(sizes)})", lambda s, p: F.interpolate(p[-1], size=tuple(_of(sizes, p)))
    made = draw.choice(WIDTHS)
    name = add(net, nn.Conv2d(width, made, 3, padding=1))
    return f"conv({width}, {made}).relu()", lambda s, p: getattr(s, name)(p[-1]).relu()


@operation()
def linear(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Read an axis by a weight."""
    dim = _inner(draw, pool)
    width, made = pool[-1].shape[dim], draw.choice(WIDTHS)
    name = add(net, nn.Linear(width, made))
    return f"linear({width}, {made}) on {dim}", lambda s, p: getattr(s, name)(p[-1].transpose(dim, -1))


def total(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Sum over an axis."""
    dim = _inner(draw, pool)
    return f"sum({dim})", lambda s, p: p[-1].sum(dim)


def mean(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Average over all axes but the first and another, which a weight reads."""
    dim = _inner(draw, pool)
    rest, width = tuple(at for at in range(1, pool[-1].dim()) if at != dim), pool[-1].shape[dim]
    name = add(net, nn.Linear(width, 5))
    return f"linear({width}, 5) of mean({rest})", lambda s, p: getattr(s, name)(p[-1].mean(rest) if rest else p[-1])


def as_it_is(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Return the last tensor."""
    return "returned", lambda s, p: p[-1]


def add(net: nn.Module, layer: nn.Module) -> str:
    """Add a layer; return its name."""
    name = f"layer{len(layer_table(net))}"
    net.add_module(name, layer.double())
    return name


def _axes(draw: Draw, pool: Pool, count: int) -> list[int]:
    return [draw.index(pool[-1].dim()) for _ in range(count)]


def _inner(draw: Draw, pool: Pool) -> int:
    """Draw an axis, most often not the first."""
    return draw.between(1, pool[-1].dim() - 1) if pool[-1].dim() > 1 else 0


def _even(size: int) -> int:
    if size % 2:
        raise Unsuited
    return size


def _of(sizes: list[Length], pool: Pool) -> Iterator[Any]:
    return (size.of(pool) for size in sizes)
