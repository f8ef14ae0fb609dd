"""Strided 1x1 convolutions of few channels see contiguous tensors on CPUs: in channels-last, oneDNN breaks there.

The gradient of their weight is wrong, or memory beside it is overwritten (uxlfoundation/oneDNN#6035, open): the
workspace holds the channels that there are, and is filled as if they were a whole block, which is 8 with AVX2 and 16
with AVX-512. Either tensor in channels-last is enough to get there, the image as well as the weight, and so is a
permuted view that a layer before it has made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# The larger block, so that the layout, and with it the rounding, is the same on every machine.
BLOCK = 16

# Axis of the weight with the channels of the larger image, which the backward pass packs.
PACKED: dict[Callable[..., Tensor], int] = {
    F.conv2d: 1,
    torch.ops.aten.conv2d.default: 1,
    F.conv_transpose2d: 1,
    torch.ops.aten.conv_transpose2d.input: 1,
}


def contiguous_strided(device: torch.device) -> AbstractContextManager[Any]:
    """Give a context to train in: the mode on a CPU, nothing elsewhere. It costs some microseconds per function."""
    return ContiguousStrided() if device.type == "cpu" else nullcontext()


class ContiguousStrided(TorchFunctionMode):
    """Inside, strided 1x1 convolutions of fewer than 16 channels on a CPU get contiguous copies; nothing else changes.

    It has to be open for the forward pass; what the backward pass reads is decided there.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in PACKED:
            return func(*args, **kwargs)
        return _convolve(func, *args, **kwargs)


def _convolve(func: Callable[..., Tensor], input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Call the convolution, of contiguous tensors where oneDNN needs them."""
    few = weight.shape[PACKED[func]] < BLOCK
    stride = args[1] if len(args) > 1 else kwargs.get("stride", 1)
    strided = any(step != 1 for step in (stride if isinstance(stride, Sequence) else (stride,)))
    if few and strided and input.device.type == "cpu" and tuple(weight.shape[2:]) == (1, 1):
        input, weight = contiguous(input), contiguous(weight)
    return func(input, weight, *args, **kwargs)


def contiguous(tensor: Tensor) -> Tensor:
    """The tensor with the strides of a contiguous one; ``Tensor.contiguous`` leaves those of axes of length 1 alone."""
    if tensor.stride() == torch.empty(tensor.shape, device="meta").stride():
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
