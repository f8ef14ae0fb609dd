"""Avoid a oneDNN error: strided 1x1 convolutions of few channels get contiguous tensors.

In channels-last on a CPU, the gradient of their weight is wrong, or oneDNN overwrites memory beside it (uxlfoundation/
oneDNN#6035, open): the workspace has room for the actual channels, but oneDNN fills a full block of 8 (AVX2) or 16
(AVX-512). One tensor in channels-last is enough to cause this, image or weight, and so is a permuted view that an
earlier layer made.
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
    """Return a context to train in: the mode on a CPU, a null context elsewhere.

    It costs some microseconds per function call.
    """
    return ContiguousStrided() if device.type == "cpu" else nullcontext()


class ContiguousStrided(TorchFunctionMode):
    """Give strided 1x1 convolutions of fewer than 16 channels contiguous copies on a CPU.

    Nothing else changes. The mode must be active in the forward pass, which decides what the backward pass reads.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in PACKED:
            return func(*args, **kwargs)
        return _convolve(func, *args, **kwargs)


def _convolve(func: Callable[..., Tensor], input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Call the convolution, with contiguous tensors if oneDNN needs them."""
    few = weight.shape[PACKED[func]] < BLOCK
    stride = args[1] if len(args) > 1 else kwargs.get("stride", 1)
    strided = any(step != 1 for step in (stride if isinstance(stride, Sequence) else (stride,)))
    if few and strided and input.device.type == "cpu" and tuple(weight.shape[2:]) == (1, 1):
        input, weight = contiguous(input), contiguous(weight)
    return func(input, weight, *args, **kwargs)


def contiguous(tensor: Tensor) -> Tensor:
    """Return the tensor with contiguous strides, also on axes of length 1.

    ``Tensor.contiguous`` does not change the strides of these.
    """
    if tensor.stride() == torch.empty(tensor.shape, device="meta").stride():
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
