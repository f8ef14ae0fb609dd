"""Guards raise an error if a decision of the trace does not hold while the graph runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx


class SpecialisedError(RuntimeError):
    """A captured graph ran on inputs for which the model would have taken another branch."""


@fx.node.has_side_effect
def guard_equal(value: Any, expected: Any, where: str) -> None:
    """Check ``value == expected``, as it was when the graph was captured.

    Raises:
        SpecialisedError: they differ; the message names the line of the model that made the decision.
    """
    if torch.compiler.is_exporting():
        return  # an exporter works at the captured sizes; a compiler compiles again for others
    found = value
    if isinstance(expected, bool) and not isinstance(value, torch.Tensor):
        found = True if value else False  # noqa: SIM210  (a compiler decides a branch, and keeps `bool(value)` open)
    if isinstance(found, torch.Tensor) or found != expected:
        now = "a tensor" if isinstance(found, torch.Tensor) else found
        raise SpecialisedError(
            f"captured where {where} was {expected}, run where it is {now}: "
            "capture again with example inputs like these."
        )


# The number of active comparisons in float64: in these, float64 replaces the network's own precision.
_in_float64 = 0


@contextlib.contextmanager
def float64_stands_in() -> Iterator[None]:
    """Let the dtype guards accept float64 inside the block, for comparisons in float64."""
    global _in_float64
    _in_float64 += 1
    try:
        yield
    finally:
        _in_float64 -= 1


@fx.node.has_side_effect
def guard_dtype(value: torch.dtype, expected: torch.dtype, where: str) -> None:
    """Check ``value == expected``, or that it is the double of it in a float64 comparison.

    Raises:
        SpecialisedError: the dtype differs.
    """
    stands_in = torch.complex128 if expected.is_complex else torch.float64 if expected.is_floating_point else None
    if not (_in_float64 and value == stands_in):
        guard_equal(value, expected, where)


@fx.node.has_side_effect
def guard_tensor(value: Any, where: str) -> None:
    """Check that ``value`` is a tensor, as it was when the graph was captured.

    Raises:
        SpecialisedError: it is not; the message names it.
    """
    if not isinstance(value, torch.Tensor):
        raise SpecialisedError(
            f"captured where {where} was a tensor, run where it is {value}: give a tensor, or "
            "capture again with example inputs like these."
        )
