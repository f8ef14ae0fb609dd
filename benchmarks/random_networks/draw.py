"""Make random networks with inputs that hypothesis draws and shrinks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from . import channels, maps, norms, places, pointwise, tokens  # noqa: F401  (they register)
from .network import CONVOLUTIONS, MAP, TOKENS, VECTOR, WIDTHS, Draw, Form, RandomNetwork, Unsuited
from .operations import OPERATIONS

SPACES = ((4, 6), (6,), (4, 4), (8, 8), (5,), (4, 2, 4), (8,), (3, 5), (4, 4, 4))
BATCH, VOCABULARY = 2, 7


@dataclass(frozen=True, eq=False)
class Drawn:
    """A network in eval mode, and a function from batch size and seed to inputs in float64."""

    network: RandomNetwork
    inputs: Callable[[int, int], tuple[Tensor, ...]]

    def __repr__(self) -> str:
        return f"\n{self.network}"


def build(draw: Draw, most: int) -> Drawn:
    """Build a network of at most so many operations."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _build(draw, most)


def _build(draw: Draw, most: int) -> Drawn:
    net, space = RandomNetwork(draw), draw.choice(SPACES)
    shapes: list[tuple[int, ...] | int] = []
    for at in range(1 + draw.index(3) // 2):
        shapes.append(_stem(net, draw, at, space))
    count = 1 + draw.index(most)
    for _ in range(count):
        _operate(net, draw)
    _heads(net, draw)
    net.finish()

    def inputs(batch: int, seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(
            torch.randint(VOCABULARY, (batch, shape), generator=generator)
            if isinstance(shape, int)
            else torch.randn((batch, *shape), generator=generator, dtype=torch.float64)
            for shape in shapes
        )

    return Drawn(net.eval(), inputs)


def _stem(net: RandomNetwork, draw: Draw, at: int, space: tuple[int, ...]) -> tuple[int, ...] | int:
    """Draw the first layer on an input (image, numbers or indices), and the input's shape."""
    kind, width = draw.choice((MAP, TOKENS, VECTOR) if at else (MAP, MAP, TOKENS)), draw.choice(WIDTHS)
    if kind == MAP:
        name, shape = net.add(CONVOLUTIONS[len(space) - 1](3 - at, width, 3, padding=1)), (3 - at, *space)
        net.step("stem", lambda s, x: getattr(s, name)(x), [-1 - at], Form(MAP, width, space))
    elif kind == VECTOR:
        name, shape = net.add(nn.Linear(5, width)), (5,)
        net.step("stem", lambda s, x: getattr(s, name)(x), [-1 - at], Form(VECTOR, width))
    else:
        name, length = net.add(nn.Embedding(VOCABULARY, width)), space[0]
        net.step("stem", lambda s, x: getattr(s, name)(x), [-1 - at], Form(TOKENS, width, (length,)))
        net.given.append(f"{length} indices")
        return length
    net.given.append(f"input {shape}")
    return shape


def _operate(net: RandomNetwork, draw: Draw) -> None:
    """Add an operation on some member, the last ones first; add none where it does not suit."""
    x = len(net.steps) - 1 - draw.index(len(net.steps)) * draw.index(2)
    form = net.steps[x].form
    operations = OPERATIONS[form.kind]
    operation = operations[draw.index(len(operations))]
    draw.told, net.operation = [], operation.__name__
    try:
        operation(net, draw, x, form)
    except Unsuited:
        draw.told = []


def _heads(net: RandomNetwork, draw: Draw) -> None:
    last = len(net.steps) - 1
    for at in range(1 + draw.index(5) // 3):
        kind = draw.choice(("classes", "classes", "dense", "as it is"))
        read = [last] if at == 0 else [draw.index(last + 1)]
        form = net.steps[read[0]].form
        if kind == "classes":
            if draw.index(3):  # all that is unread so far
                used = {place for step in net.steps for place in step.operands}
                read += [place for place in range(last) if place not in used][-4:]
            layer: nn.Module = nn.Linear(sum(net.steps[place].form.width for place in read), 5)
        elif kind == "dense" and form.kind == MAP:
            layer = CONVOLUTIONS[len(form.space) - 1](form.width, 3, 1)
        else:
            kind, layer = ("dense", nn.Linear(form.width, 3)) if kind == "dense" else (kind, nn.Identity())
        net.heads.append((net.add(layer), tuple(read), kind))


@st.composite
def networks(draw: st.DrawFn, most: int = 8) -> Drawn:
    """Draw networks of up to ``most`` operations; they shrink towards few, simple ones."""
    return build(Draw(lambda count: draw(st.integers(0, count - 1))), most)
