"""Name every tensor that a network returns, and measure the relative error between two."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fxprune.arguments.records import Record, fields_of
from fxprune.pytorch.torch_private import pytree


def named_outputs(value: Any, path: str = "output") -> dict[str, Tensor]:
    """Map paths to tensors in order: ``output``, ``output[1]``, ``output['logits']``.

    Args:
        value: a tensor, number, tuple, list, mapping or dataclass, nested in any way; None and text are left out.
        path: what to call the value itself.
    """
    tensors: dict[str, Tensor] = {}
    for keys, leaf in pytree.tree_leaves_with_path(value, is_leaf=_is_record):
        here = path + pytree.keystr(keys)
        if torch.is_tensor(leaf):
            tensors[here] = leaf
        elif isinstance(leaf, int | float | complex):
            tensors[here] = torch.as_tensor(leaf)
        elif (parts := fields_of(leaf)) is not None:
            tensors |= named_outputs(parts, here)
    return tensors


def rebuilt(value: Any, tensors: Iterable[Tensor]) -> Any:
    """``rebuilt(value, named_outputs(value).values())`` is value, of equal structure."""
    rest = iter(tensors)

    def build(value: Any) -> Any:
        if torch.is_tensor(value) or isinstance(value, int | float | complex):
            return next(rest)
        if isinstance(value, list | tuple):
            built = [build(each) for each in value]
            return type(value)(*built) if hasattr(value, "_fields") else type(value)(built)
        if (parts := fields_of(value)) is None:
            return value
        fields = {name: build(part) for name, part in parts.items()}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(value, **fields)
        return fields if type(value) is dict else Record(fields)

    return build(value)


def _is_record(value: Any) -> bool:
    """Tell whether a value has named parts, even if a library registered it without their names."""
    return type(value) is not dict and fields_of(value) is not None


def relative_error(reference: Tensor, candidate: Tensor) -> float:
    """Max |a - b| / max |a| in float64; 0 for equal tensors, inf for incomparable ones.

    Two tensors are incomparable with a NaN in either, with different shapes, with an infinity on one side only, and
    if the reference is zero and the candidate is not. Infinities at the same positions are equal.
    """
    if reference.shape != candidate.shape:
        return math.inf
    kind = torch.complex128 if reference.is_complex() or candidate.is_complex() else torch.float64
    a, b = (x.detach().to("cpu", kind) for x in (reference, candidate))
    if a.isnan().any() or b.isnan().any():
        return math.inf
    differ = a != b
    if not differ.any():
        return 0.0
    gap = float((a - b)[differ].abs().max())
    scale = float(a[a.isfinite()].abs().max()) if a.isfinite().any() else 0.0
    return gap / scale if scale > 0.0 else math.inf
