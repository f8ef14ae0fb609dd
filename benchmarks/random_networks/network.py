"""Build a random network: operations on a pool of activations add members, heads read some.

All choices come from a :class:`Draw`: the same code works with a search that shrinks failures and with a plain seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T")
MAP, TOKENS, VECTOR = "map", "tokens", "vector"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Widths with many divisors, few, and none; some are lengths of images, too.
WIDTHS = (4, 6, 8, 3, 5, 12, 2, 7, 9)
MOST_CHANNELS = 36


class Unsuited(Exception):
    """The operation cannot take this operand."""


@dataclass(frozen=True)
class Form:
    """The form of a member of the pool."""

    kind: str
    width: int
    space: tuple[int, ...] = ()

    @property
    def axis(self) -> int:
        """The axis that carries the channels."""
        return 2 if self.kind == TOKENS else 1

    def of(self, width: int) -> Form:
        """Return the same with another number of channels."""
        return Form(self.kind, width, self.space)


class Draw:
    """Choices from any source of integers; they are recorded, since they describe a network."""

    def __init__(self, integer: Callable[[int], int]) -> None:
        self._integer = integer
        self.told: list[str] = []

    def index(self, count: int) -> int:
        """Draw a number below ``count``; the smallest is the simplest."""
        return self._integer(count) if count > 1 else 0

    def choice(self, options: Sequence[T]) -> T:
        """Draw one of several; the first is the simplest."""
        chosen = options[self.index(len(options))]
        self.told.append(getattr(chosen, "__name__", str(chosen)))
        return chosen

    def whether(self) -> bool:
        """Draw yes or no; no is simpler."""
        return self.choice((False, True))

    def between(self, low: int, high: int) -> int:
        """Draw a number of ``low .. high``, both included."""
        return self.choice(range(low, high + 1))

    def divisor(self, of: int) -> int:
        """Draw a divisor."""
        return self.choice([n for n in range(1, of + 1) if of % n == 0])


@dataclass(frozen=True, eq=False)
class NetworkStep:
    """One operation of a network: its name, its function, its operands, and its result's form."""

    operation: str
    name: str
    run: Callable[..., Tensor]
    operands: tuple[int, ...]
    form: Form


class RandomNetwork(nn.Module):
    """Layers, steps that use them in order, and heads; ``str(network)`` shows all of them.

    Attributes:
        steps: the pool, in order; the first ones are the stems of the inputs.
        operation: name of the operation that now adds steps.
        same_in_training: a narrow network also computes the same in training mode (no random numbers, no state of a
            stored computed weight).
    """

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.draw, self.operation = draw, "stem"
        self.steps: list[NetworkStep] = []
        self.same_in_training = True
        self.heads: list[tuple[str, tuple[int, ...], str]] = []
        self.given: list[str] = []

    def add(self, layer: nn.Module | Tensor) -> str:
        """Name of a new layer or parameter."""
        name = f"layer{len(self._modules) + len(self._parameters)}"
        setattr(self, name, nn.Parameter(layer) if type(layer) is Tensor else layer)
        return name

    def free(self, *shape: int) -> str:
        """Name of a new parameter."""
        return self.add(torch.randn(shape))

    def step(self, name: str, run: Callable[..., Tensor], operands: Sequence[int], form: Form) -> int:
        """Place of a new member of the pool: ``run(network, *operands)``."""
        if form.width < 2 or form.width > MOST_CHANNELS:
            raise Unsuited
        told, self.draw.told = self.draw.told, []
        label = f"{name}({', '.join(told)})" if told else name
        self.steps.append(NetworkStep(self.operation, label, run, tuple(operands), form))
        return len(self.steps) - 1

    def like(self, form: Form) -> int:
        """Draw a member of this form."""
        fit = [place for place, step in enumerate(self.steps) if step.form == form]
        return fit[-1 - self.draw.index(len(fit))]

    def beside(self, form: Form) -> int:
        """Draw a member of this kind and space, of any width."""
        return self.any(lambda other: other.of(0) == form.of(0))

    def any(self, suits: Callable[[Form], bool]) -> int:
        """Draw a member of a form that suits."""
        fit = [place for place, step in enumerate(self.steps) if suits(step.form)]
        if not fit:
            raise Unsuited
        return fit[-1 - self.draw.index(len(fit))]

    def finish(self) -> None:
        """Drop the steps that no head reads, once all are made."""
        needed = {place for _, read, _ in self.heads for place in read}
        for place in reversed(range(len(self.steps))):
            if place in needed:
                needed.update(at for at in self.steps[place].operands if at >= 0)
        self.needed = sorted(needed)
        del self.draw

    def forward(self, *inputs: Tensor) -> Any:
        """Run the steps that are needed, and the heads; several outputs are a tuple."""
        pool: dict[int, Tensor] = {-1 - at: x for at, x in enumerate(inputs)}
        for place in self.needed:
            step = self.steps[place]
            pool[place] = step.run(self, *(pool[at] for at in step.operands))
        outputs = [self._head(name, [pool[at] for at in read], kind) for name, read, kind in self.heads]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _head(self, name: str, read: list[Tensor], kind: str) -> Tensor:
        if kind == "as it is":
            return read[0]
        if kind == "dense":
            return getattr(self, name)(read[0])
        vectors = [pooled(F.gelu(x), self.steps[at].form) for x, at in zip(read, self._read(name))]
        return getattr(self, name)(torch.cat(vectors, 1))

    def _read(self, name: str) -> tuple[int, ...]:
        return next(read for head, read, _ in self.heads if head == name)

    def operators(self) -> list[str]:
        """Name the operations."""
        return [self.steps[place].operation for place in self.needed]

    def __str__(self) -> str:
        lines = [", ".join(self.given)]
        for place in self.needed:
            step = self.steps[place]
            reads = ", ".join(f"input {-at - 1}" if at < 0 else f"#{at}" for at in step.operands)
            lines.append(f"#{place} = {step.name} of {reads} -> {step.form.kind} {step.form.width} {step.form.space}")
        lines += [f"head {kind} of {', '.join(f'#{at}' for at in read)}" for _, read, kind in self.heads]
        return "\n".join(lines)

    __repr__ = __str__


def pooled(x: Tensor, form: Form) -> Tensor:
    """Mean over space: [n, width]."""
    if form.kind == VECTOR:
        return x
    return x.mean(1) if form.kind == TOKENS else x.mean(tuple(range(2, 2 + len(form.space))))
