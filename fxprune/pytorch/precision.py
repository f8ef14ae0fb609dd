"""Compute in float64 what PyTorch rejects: mixed precisions, and functions without float64.

A network in float64 may make numbers in float32, such as coordinates by ``grid.float()``. PyTorch promotes them in a
sum, but not in a convolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fxprune.pytorch.torch_private import GROUPED_MM, TorchDispatchMode, pytree

DOUBLE = frozenset({torch.float64, torch.complex128})
# Lower precision -> the one of a network in float64.
DOUBLED = dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64) | dict.fromkeys(
    (torch.complex64, torch.complex32), torch.complex128
)


class PromoteMixed(TorchFunctionMode):
    """Compute in float64 where a function rejects it, or mixed precisions; change nothing else."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        try:
            return func(*args, **kwargs)
        except RuntimeError:
            # A function that writes to its argument must not write to a copy.
            writes = func.__name__.endswith("_") or "out" in kwargs
            if func is GROUPED_MM and torch.float64 in dtypes_of(args) and kwargs.get("bias") is None and len(args) < 4:
                args, kwargs = promoted(args, kwargs)
                return _grouped_product(*args, **kwargs)
            if writes or not mixed(args, kwargs):
                raise
            args, kwargs = promoted(args, kwargs)
            return func(*args, **kwargs)


class MixingMode(TorchDispatchMode):
    """A mode for operators that includes :class:`PromoteMixed`, since functions reject first."""

    def __enter__(self) -> Any:
        """Enter both modes."""
        self._promoting = PromoteMixed()
        self._promoting.__enter__()  # type: ignore[no-untyped-call]
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        """Leave both modes."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._promoting.__exit__(*error)  # type: ignore[no-untyped-call]


def _grouped_product(
    a: torch.Tensor, b: torch.Tensor, offs: torch.Tensor | None = None, bias: None = None, out_dtype: Any = None
) -> torch.Tensor:
    """Multiply group by group; behind the last is zero, which PyTorch leaves undefined."""
    if offs is None:
        product = a @ b
    else:
        ends = offs.tolist()
        cuts = [slice(*ends) for ends in zip([0, *ends], ends, strict=False)]
        if a.dim() == b.dim():
            product = torch.stack([a[:, cut] @ b[cut] for cut in cuts])
        elif a.dim() == 2:
            product = torch.cat([*(a[cut] @ b[i] for i, cut in enumerate(cuts)), a[ends[-1] :] @ b[0] * 0])
        else:
            product = torch.cat([*(a[i] @ b[:, cut] for i, cut in enumerate(cuts)), a[0] @ b[:, ends[-1] :] * 0], 1)
    return product.to(out_dtype)


def mixed(args: Any, kwargs: Any) -> bool:
    """Tell whether tensors in float64 or complex128 meet tensors of lower precision."""
    found = dtypes_of((*args, *kwargs.values()))
    return not found.isdisjoint(DOUBLE) and not found.isdisjoint(DOUBLED)


def dtypes_of(values: Iterable[Any]) -> set[torch.dtype]:
    """Return the dtypes of the tensors among arguments, faster than pytree lists them."""
    found = set()
    for value in values:
        if isinstance(value, torch.Tensor):
            found.add(value.dtype)
        elif isinstance(value, (list, tuple, dict)):
            found |= dtypes_of(value.values() if isinstance(value, dict) else value)
    return found


def promoted(args: Any, kwargs: Any) -> Any:
    """Convert the tensors of lower precision among the arguments to float64 or complex128."""
    return pytree.tree_map_only(torch.Tensor, lambda x: x.to(DOUBLED.get(x.dtype, x.dtype)), (args, kwargs))


def dtype_name(kind: torch.dtype) -> str:
    """Name a dtype without ``torch.``: ``float32``."""
    return str(kind).removeprefix("torch.")


def to_float64(tensor: torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
    """Copy a tensor as float64; other types than floating point keep their dtype.

    It is always a copy, so that in-place operations do not change the caller's tensor.
    """
    device = tensor.device if device is None else device
    kind = torch.complex128 if tensor.is_complex() else torch.float64 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(device, kind, copy=True)
