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
    found = bool(value) if isinstance(expected, bool) else value
    if found != expected:
        raise SpecialisedError(
            f"captured where {where} was {expected}, run where it is {found}: "
            "capture again with example inputs of these sizes."
        )
