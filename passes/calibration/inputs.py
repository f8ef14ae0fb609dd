"""Unlabelled inputs, checked and cut into equal batches; the last ones are held back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxprune.arguments.inputs import Inputs, tensors_of
from fxprune.arguments.inputs import as_inputs as structured
from fxprune.coupling import Coupling
from fxprune.errors import DataError
from fxprune.pytorch.precision import dtype_name
from fxprune.pytorch.torch_private import pytree

BATCH = 32
# More inputs than that hardly help, and their activations take memory.
MOST_INPUTS = 1024


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
    by_sample = _by_sample(coupling.example_inputs)
    read: list[tuple[Inputs, int]] = []
    count = 0
    for batch in batches:
        inputs = structured(batch)
        _check(inputs, coupling, by_sample, count)
        size = next(len(x) for x, cut in zip(tensors_of(inputs), by_sample, strict=True) if cut)
        size = size if most is None else min(size, most - count)
        read.append((inputs, size))
        count += size
        if count == most:
            break
    if not count:
        raise DataError("there are no images: give batches of them, such as tensors [N, C, H, W].")
    fitted = count - (max(1, round(held * count)) if held and count > 1 else 0)
    parts: tuple[list[Inputs], list[Inputs]] = [], []
    seen = 0
    for inputs, size in read:
        edge = min(max(fitted - seen, 0), size)
        for part, first, last in ((parts[0], 0, edge), (parts[1], edge, size)):
            starts = range(first, last, BATCH)
            part += [_cut(inputs, by_sample, start, min(start + BATCH, last)) for start in starts]
        seen += size
    return Calibration(tuple(parts[0]), tuple(parts[1]), count)


def _by_sample(example: Inputs) -> list[bool]:
    """Tell of each tensor whether its first axis is the batch, as that of the first tensor."""
    tensors = tensors_of(example)
    batch = next((len(x) for x in tensors if x.dim()), 0)
    if not batch:
        raise DataError("the network was analysed with scalars or with no tensors: its inputs have no batch.")
    return [x.dim() > 0 and len(x) == batch for x in tensors]


def _cut(inputs: Inputs, by_sample: list[bool], start: int, stop: int) -> Inputs:
    leaves, structure = pytree.tree_flatten(inputs)
    cuts = iter(by_sample)
    cut = [(leaf[start:stop] if next(cuts) else leaf).clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    result: Inputs = pytree.tree_unflatten(cut, structure)
    return result


def _check(inputs: Inputs, coupling: Coupling, by_sample: list[bool], before: int) -> None:
    wanted, found = tensors_of(coupling.example_inputs), tensors_of(inputs)
    like = len(wanted) == len(found) and all(
        a.dim() == b.dim() and a.is_floating_point() == b.is_floating_point()
        for a, b in zip(wanted, found, strict=True)
    )
    if not like or any(a.shape[cut:] != b.shape[cut:] for a, b, cut in zip(wanted, found, by_sample, strict=True)):
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
    return f"{dtype_name(x.dtype)} {list(x.shape)}"
