"""Watch assignments to the ``data`` of a tensor, which no operator shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def data_writes(seen: Callable[[Any], None]) -> Iterator[None]:
    """Call ``seen(value)`` before each assignment to the ``data`` of a tensor; it may raise."""
    given: Any = torch.Tensor.data  # of the base class in C, which casts what it gets

    def write(tensor: torch.Tensor, value: Any) -> None:
        seen(value)
        given.__set__(tensor, value)

    torch.Tensor.data = property(given.__get__, write)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del torch.Tensor.data
