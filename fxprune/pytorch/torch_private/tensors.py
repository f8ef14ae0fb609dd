"""Reach into tensors: their memory, their versions, and their attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

__all__ = ["pytree"]

VERSION = "_version"  # how often a tensor was written to
# Attributes that tell how a tensor came about.
HISTORY = frozenset({"_backward_hooks", "_base", "_is_view", VERSION})


def storage_id(tensor: torch.Tensor) -> int:
    """Return an id that a tensor shares with its views, as long as one of them lives."""
    return int(torch._C.TensorBase.untyped_storage(tensor)._cdata)  # also where reads are watched


def base_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the tensor of which a tensor is a view; None: it is none."""
    attribute: Any = torch._C.TensorBase._base  # also where questions are watched
    base: torch.Tensor | None = attribute.__get__(tensor)
    return base


def storage_owners(tensor: torch.Tensor) -> int:
    """Count the tensors that share the storage of a tensor, itself included."""
    storage = torch._C.TensorBase.untyped_storage(tensor)
    return int(torch._C._storage_Use_Count(storage._cdata)) - 1


def memory_of(tensor: torch.Tensor) -> int:
    """Return the size of a tensor's storage in bytes."""
    return int(torch._C.TensorBase.untyped_storage(tensor).nbytes())  # also where reads are watched


def strides_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the strides of a tensor, also where questions are watched."""
    return torch._C.TensorBase.stride(tensor)


def versions_of(tensors: Sequence[torch.Tensor]) -> list[int]:
    """Return how often each tensor was written to; writes through ``.data`` do not count."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def has_gradient_hooks(tensor: torch.Tensor) -> bool:
    """Tell whether hooks may change the gradient of a tensor."""
    return bool(tensor._backward_hooks)


def places_of(tensors: Sequence[torch.Tensor]) -> list[int]:
    """Return the address of each tensor's numbers."""
    return list(map(torch.Tensor.data_ptr, tensors))


def mark_parameter(tensor: torch.Tensor, is_parameter: bool) -> None:
    """Let ``isinstance`` take a tensor of another class for a parameter, or not."""
    tensor._is_param = is_parameter  # type: ignore[attr-defined]


def is_marked_parameter(tensor: torch.Tensor) -> bool:
    """Tell whether :func:`mark_parameter` made a tensor a parameter."""
    return bool(tensor._is_param)  # type: ignore[attr-defined]
