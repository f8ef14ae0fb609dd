"""A decision that was made while tracing holds while running, or the graph stops loudly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx


class SpecialisedError(RuntimeError):
    """A captured graph was run on sizes for which the model would have taken another branch."""


@fx.node.has_side_effect
def guard_equal(value: Any, expected: Any, where: str) -> None:
    """``value == expected``, as it was when the graph was captured.

    Raises:
        SpecialisedError: naming the line of the model whose decision the graph repeats.
    """
    if torch.compiler.is_compiling():
        return  # an exporter works at the captured sizes
    found = bool(value) if isinstance(expected, bool) and not isinstance(value, torch.Tensor) else value
    if isinstance(found, torch.Tensor) or found != expected:
        now = "a tensor" if isinstance(found, torch.Tensor) else found
        raise SpecialisedError(
            f"captured where {where} was {expected}, run where it is {now}: "
            "capture again with example inputs like these."
        )


# How many comparisons in float64 are going on: there, what a network does in its own precision is done in float64.
_in_float64 = 0


@contextlib.contextmanager
def float64_stands_in() -> Iterator[None]:
    """Inside, float64 passes for the precision of the capture, as the comparisons of this package need it."""
    global _in_float64
    _in_float64 += 1
    try:
        yield
    finally:
        _in_float64 -= 1


@fx.node.has_side_effect
def guard_dtype(value: torch.dtype, expected: torch.dtype, where: str) -> None:
    """``value == expected``, or it is float64 in a comparison in float64.

    Raises:
        SpecialisedError: the type is another one.
    """
    if not (_in_float64 and value == torch.float64 and expected.is_floating_point):
        guard_equal(value, expected, where)


@fx.node.has_side_effect
def guard_tensor(value: Any, where: str) -> None:
    """``value`` is a tensor, as it was when the graph was captured.

    Raises:
        SpecialisedError: naming what is none.
    """
    if not isinstance(value, torch.Tensor):
        raise SpecialisedError(
            f"captured where {where} was a tensor, run where it is {value}: "
            "capture again with example inputs like these."
        )
