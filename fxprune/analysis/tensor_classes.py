"""Results of a class of tensors with operators of its own have no labels, so it is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import CaptureError
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.source import source_of

from .labels import Label, tensors_in


def check_stored(module: nn.Module) -> None:
    """Raise CaptureError if a stored tensor is of a class with operators of its own."""
    for name, tensor in named_tensors(module):
        if has_operators(tensor):
            raise _refusal(f"`{name}` is", tensor, "store")


def check_result(node: fx.Node, value: Any, labels: Iterable[Label]) -> None:
    """Raise CaptureError if a call with channels returns a tensor of such a class."""
    own = next(filter(has_operators, tensors_in(value)), None)
    if own is not None and any(label.has_channels or label.waits for label in labels):
        raise _refusal(f"`{node}` ({source_of(node)}) returns", own, "give")


def has_operators(tensor: torch.Tensor) -> bool:
    """Tell whether PyTorch calls the class of a tensor instead of its own operators."""
    kind: Any = type(tensor)
    # A parameter is the class of tensors that leaves its operators to PyTorch.
    return kind is not torch.Tensor and kind.__torch_function__ is not nn.Parameter.__torch_function__


def _refusal(what: str, tensor: torch.Tensor, verb: str) -> CaptureError:
    return CaptureError(
        f"{what} a tensor of class `{type(tensor).__qualname__}`, which may have operators of its own, and no channels "
        f"can be followed through these: {verb} a plain one, as `x.as_subclass(torch.Tensor)`."
    )
