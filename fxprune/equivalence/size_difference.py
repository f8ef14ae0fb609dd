"""Compare calls at other batches and sizes, which a network may keep something of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fxprune.arguments.inputs import Inputs, tensors_of
from fxprune.pytorch.torch_private import pytree

from .example_values import doubled
from .observation import compare, try_to_observe
from .pair import Pair

_MOST = 1 << 21  # numbers of larger inputs


def difference_at_other_sizes(pair: Pair, first: Inputs) -> str:
    """Call both on the example, another batch or size, and the example; name a difference.

    A guard may refuse a batch or size, and so may the model. Both keep what they keep.
    """
    why, _ = _difference_after(pair, first, doubled(first))
    if why:
        return f"after a call at another batch, {why}"
    taken: set[bool] = set()
    for other in at_other_sizes(first):
        is_larger = _numel_of(other) > _numel_of(first)
        if is_larger in taken or _numel_of(other) > _MOST:
            continue
        why, runs = _difference_after(pair, first, other)
        if why:
            return f"after a call at another size, {why}"
        if runs:
            taken.add(is_larger)
    return ""


def _numel_of(inputs: Inputs) -> int:
    return sum(x.numel() for x in tensors_of(inputs))


def _difference_after(pair: Pair, first: Inputs, other: Inputs) -> tuple[str, bool]:
    """Return the first difference, and whether the model takes the other inputs."""
    model, module = pair.copies()
    runs = True
    for inputs in (first, other, first):
        wanted, found = try_to_observe(model, inputs), try_to_observe(module, inputs)
        if isinstance(wanted, str) or isinstance(found, str):
            runs = runs and not isinstance(wanted, str)
            if not runs:  # it may have kept something for the next call
                break
            continue
        wanted.state, found.state = {}, {}  # a cache is allowed, if the next call finds in it what it would compute
        if why := compare(wanted, found):
            return why, runs
    return "", runs


def at_other_sizes(inputs: Inputs) -> Iterator[Inputs]:
    """Yield inputs of other sizes than samples and channels, which the network may refuse.

    Which axis of three is which, only the network knows.
    """
    given = [x.shape for x in tensors_of(inputs)]
    seen = [given]
    for change in (_half, _repeated):
        for of_three in (1, 2):
            resize = functools.partial(_resized, change=change, of_three=of_three)
            other: Inputs = pytree.tree_map_only(Tensor, resize, inputs)
            if (sizes := [x.shape for x in tensors_of(other)]) not in seen:
                seen.append(sizes)
                yield other


def _resized(x: Tensor, change: Callable[[Tensor, int], Tensor], of_three: int) -> Tensor:
    for axis in {0: (), 1: (), 2: (1,), 3: (of_three,)}.get(x.dim(), range(2, x.dim())):
        x = change(x, axis)
    return x


def _half(x: Tensor, axis: int) -> Tensor:
    return x.narrow(axis, 0, max(x.shape[axis] // 2, 1))


def _repeated(x: Tensor, axis: int) -> Tensor:
    return torch.cat([x, x], axis)
