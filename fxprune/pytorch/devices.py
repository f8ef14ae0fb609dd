"""Make tensors with data, whatever the default device is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def with_data() -> Iterator[None]:
    """Make tensors on the CPU inside the block where they would be on the meta device."""
    with torch.device("cpu") if torch.empty(0).is_meta else contextlib.nullcontext():
        yield
