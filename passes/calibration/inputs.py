"""Unlabelled inputs, checked and cut into equal batches; the last ones are held back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxprune.common.inputs import Inputs, tensors_of
from fxprune.common.inputs import as_inputs as structured
from fxprune.common.torch_private import pytree
from fxprune.coupling import Coupling
from fxprune.errors import DataError

BATCH = 32


@dataclass(frozen=True, eq=False)
class Calibration:
    """Inputs in batches.

    Attributes:
        batches: to estimate from.
        held: to judge by; empty if there are too few inputs.
        count: of all inputs.
    """

    batches: tuple[Inputs, ...]
    held: tuple[Inputs, ...]
    count: int


def calibration(
    batches: Iterable[Any], coupling: Coupling, *, held: float = 0.25, most: int | None = None
) -> Calibration:
    """Read inputs of a network, check them, and cut them into batches of at most 32.

    Args:
        batches: tensors [N, ...], or tuples or dicts of arguments, as the network takes them; no labels.
        coupling: the analysis, whose example inputs they must be like but for the batch.
        held: share of the inputs to hold back, from the end.
        most: stop after so many inputs; None: read all.

    Raises:
        DataError: none, inputs that are not like the analysed ones, or a NaN or an infinity among them.
    """
    read: list[Inputs] = []
    count = 0
    for batch in batches:
        inputs = structured(batch)
        _check(inputs, coupling, count)
        size = next(len(x) for x in tensors_of(inputs) if x.dim())
        if most is not None and count + size > most:
            inputs = _cut(inputs, 0, most - count)
            size = most - count
        read += [_cut(inputs, start, min(start + BATCH, size)) for start in range(0, size, BATCH)]
        count += size
        if most is not None and count >= most:
            break
    if not count:
        raise DataError("there are no images: give batches of them, such as tensors [N, C, H, W].")
    if len(read) == 1 and count > 1 and held:
        size = next(len(x) for x in tensors_of(read[0]) if x.dim())
        cut = max(1, round(size * (1 - held)))
        read = [_cut(read[0], 0, cut), _cut(read[0], cut, size)] if cut < size else read
    kept = max(1, round(len(read) * (1 - held))) if len(read) > 1 else 1
    kept = min(kept, len(read) - 1) if held and len(read) > 1 else kept
    return Calibration(tuple(read[:kept]), tuple(read[kept:]), count)


def _cut(inputs: Inputs, start: int, stop: int) -> Inputs:
    cut: Inputs = pytree.tree_map_only(Tensor, lambda x: x[start:stop] if x.dim() else x, inputs)
    return cut


def _check(inputs: Inputs, coupling: Coupling, before: int) -> None:
    wanted, found = tensors_of(coupling.example_inputs), tensors_of(inputs)
    like = len(wanted) == len(found) and all(
        a.dim() == b.dim() and a.is_floating_point() == b.is_floating_point()
        for a, b in zip(wanted, found, strict=True)
    )
    if not like or any(a.shape[1:] != b.shape[1:] for a, b in zip(wanted, found, strict=True)):
        shown = ", ".join(_described(x) for x in found) or "no tensor"
        raise DataError(
            f"the batch after {before} inputs holds {shown}; the network was analysed with "
            f"{', '.join(_described(x) for x in wanted)}, and batches may differ from that in their first axis only."
        )
    if not all(x.dim() == 0 or len(x) for x in found):
        raise DataError(f"the batch after {before} inputs is empty.")
    for x in found:
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise DataError(f"the batch after {before} inputs holds a NaN or an infinity.")


def _described(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
