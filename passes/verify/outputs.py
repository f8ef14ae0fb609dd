"""Whatever a network returns is a set of named tensors, and two of those differ by one number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxprune.common.torch_private import pytree


def named_outputs(value: Any, path: str = "output") -> dict[str, Tensor]:
    """Every tensor has one path: ``output``, ``output[1]``, ``output['logits']``, in the order of the structure.

    Args:
        value: a tensor, number, tuple, list, mapping or dataclass, nested in any way; None and text are left out.
        path: what to call the value itself.
    """
    tensors: dict[str, Tensor] = {}
    for keys, leaf in pytree.tree_leaves_with_path(value):
        here = path + pytree.keystr(keys)
        if torch.is_tensor(leaf):
            tensors[here] = leaf
        elif isinstance(leaf, int | float | complex):
            tensors[here] = torch.as_tensor(leaf)
        elif (parts := _parts(leaf)) is not None:
            tensors |= named_outputs(parts, here)
    return tensors


def _parts(leaf: Any) -> dict[str, Any] | None:
    """Fields of what PyTorch does not know to be a container: mappings and dataclasses of other libraries."""
    if isinstance(leaf, Mapping):
        return dict(leaf)
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        return {field.name: getattr(leaf, field.name) for field in dataclasses.fields(leaf)}
    return None


def relative_error(reference: Tensor, candidate: Tensor) -> float:
    """Largest |a - b| over largest |a|, taken in float64: 0 where the two are equal, inf where no number can tell.

    No number can tell for a NaN in either, for shapes that differ, for an infinity on one side only, and where the
    reference is zero and the candidate is not. Infinities at the same places are equal.

    Args:
        reference: a, of any shape, type and device.
        candidate: b.
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
