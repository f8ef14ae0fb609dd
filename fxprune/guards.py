"""A decision that was made while tracing holds while running, or the graph stops loudly."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


class SpecialisedError(RuntimeError):
    """A captured graph was run on sizes for which the model would have taken another branch."""


@fx.node.has_side_effect
def holds(value: Any, expected: Any, where: str) -> None:
    """``value == expected``, as it was when the graph was captured.

    Raises:
        SpecialisedError: naming the line of the model whose decision the graph repeats.
    """
    if torch.compiler.is_compiling():
        return  # an exporter works at the captured sizes
    found = bool(value) if isinstance(expected, bool) and not isinstance(value, torch.Tensor) else value
    if isinstance(found, torch.Tensor) or found != expected:
        told = "a tensor" if isinstance(found, torch.Tensor) else found
        raise SpecialisedError(
            f"captured where {where} was {expected}, run where it is {told}: "
            "capture again with example inputs like these."
        )


@fx.node.has_side_effect
def is_tensor(value: Any, where: str) -> None:
    """``value`` is a tensor, as it was when the graph was captured.

    Raises:
        SpecialisedError: naming what is none.
    """
    if not isinstance(value, torch.Tensor):
        raise SpecialisedError(
            f"captured where {where} was a tensor, run where it is {value}: "
            "capture again with example inputs like these."
        )
