"""Tell which sizes of the inputs a user's own code is bound to, by a run at other sizes.

Capture keeps such code whole: the sizes that a view inside of it states are numbers, of which nothing tells where they
are from. It runs again on the meta device at other sizes; where it lays out channels as before, it takes any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from fxprune.arguments.inputs import Inputs
from fxprune.errors import FxpruneError
from fxprune.pytorch.torch_private import pytree

from .state import AnalysisState

# Of each call, and each operator inside of it: the name, and the channels on each axis that it made.
Layouts = Mapping[str, list[tuple[str, list[bytes | None]]]]

# Operators that move, join or cut what lies on axes; all others leave it.
_LAYS_OUT = frozenset({
    "view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "as_strided", "unfold", "repeat",
    "im2col", "col2im", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "cat", "stack",
    "slice", "narrow", "select", "split", "split_with_sizes", "chunk", "unsafe_chunk", "unsafe_split", "unbind", "roll",
    "index", "index_select", "gather", "repeat_interleave", "constant_pad_nd",
})  # fmt: skip


def layouts(state: AnalysisState) -> Layouts:
    """Describe where own code that lays out axes puts channels."""
    channel = state.channels.channel
    return {
        name: [
            (operator, [None if ids is None else channel(ids).tobytes() for axes in made for ids in axes])
            for operator, made in steps
        ]
        for name, steps in state.notes.inside.items()
        if any(operator in _LAYS_OUT for operator, _ in steps)
    }


def bounds(found: Layouts, inputs: Inputs, run: Callable[[Inputs], Layouts]) -> dict[str, str]:
    """Map calls of own code to the sizes that they are bound to: ``images`` or ``all``.

    Args:
        found: the layouts at the example.
        inputs: the example.
        run: returns the layouts at other inputs; raises FxpruneError where the network does not run on them.
    """
    if not found:
        return {}
    differ = {*found}
    for others in _of_other_sizes(inputs):
        try:
            again = run(others)
        except FxpruneError:
            continue
        differ = {name for name in found if again.get(name) != found[name]}
        break
    if not differ:
        return {}
    try:
        again = run(_resized(inputs, lambda rank, dim: 1))
    except FxpruneError:
        again = {}
    return {name: "images" if again.get(name) == found[name] else "all" for name in differ}


def _of_other_sizes(inputs: Inputs) -> Iterator[Inputs]:
    """Yield inputs with one sample more: images of other sizes, or sequences of another length."""
    yield _resized(inputs, lambda rank, dim: 1 if dim < 2 else 3 if 3 < rank == dim + 1 else 2)
    yield _resized(inputs, lambda rank, dim: 1 if dim < 2 else 2)
    yield _resized(inputs, lambda rank, dim: 2 if dim == 1 else 1)


def _resized(inputs: Inputs, times: Callable[[int, int], int]) -> Inputs:
    """Copy the inputs with one sample more, and each axis some times as long, by its number."""
    batch = batch_of(inputs)

    def resized(x: torch.Tensor) -> torch.Tensor:
        sizes = [size * times(x.dim(), dim) for dim, size in enumerate(x.shape)]
        if x.dim() and x.shape[0] == batch:
            sizes[0] = batch + 1
        return torch.empty(sizes, dtype=x.dtype, device="meta")

    made: Inputs = pytree.tree_map_only(torch.Tensor, resized, inputs)
    return made


def batch_of(inputs: Inputs) -> int:
    """Return how many samples the inputs are: the first length of the first tensor."""
    tensors = (x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor) and x.dim())
    return next((len(x) for x in tensors), 0)
