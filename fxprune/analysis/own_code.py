"""Tell which sizes of the inputs a user's own code is bound to, by a run at other sizes.

Capture keeps such code whole: the sizes that a view inside of it states are numbers, of which nothing tells where they
are from. It runs again on the meta device at other sizes; where it lays out channels as before, it takes any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

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
    images, sequences = _first(run, _of_other_images(inputs)), _first(run, _of_other_sequences(inputs))
    runs = [again for again in (images, sequences) if again is not None]
    differ = [name for name in found if not runs or any(again.get(name) != found[name] for again in runs)]
    batch = (_first(run, (_resized(inputs, each, _same) for each in _MORE)) or {}) if differ else {}
    return {name: "images" if batch.get(name) == found[name] else "all" for name in differ}


def _first(run: Callable[[Inputs], Layouts], others: Iterator[Inputs]) -> Layouts | None:
    """Return the layouts at the first inputs on which the network runs."""
    for inputs in others:
        with contextlib.suppress(FxpruneError):
            return run(inputs)
    return None


# Other lengths of an axis, by the rank, the number and the length of it.
_Change = Callable[[int, int, int], int]

# Numbers of samples, of one: another, as segments of videos are, and the same.
_MORE: tuple[Callable[[int], int], ...] = (lambda samples: samples + 1, lambda samples: 2 * samples)
_SAMPLES = (*_MORE, lambda samples: samples)


def _same(rank: int, dim: int, size: int) -> int:
    return size


def _of_other_images(inputs: Inputs) -> Iterator[Inputs]:
    """Yield inputs of more samples, of which all axes behind the channels have other lengths."""
    changes: tuple[_Change, ...] = (
        lambda rank, dim, size: size if dim < 2 else size * (3 if 3 < rank == dim + 1 else 2),
        lambda rank, dim, size: size if dim < 2 else 2 * size,
        lambda rank, dim, size: size if dim < 2 else max(size // 2, 1),
    )
    return _others(inputs, changes)


def _of_other_sequences(inputs: Inputs) -> Iterator[Inputs]:
    """Yield inputs of more samples, of which those of at most three axes have another length."""
    changes: tuple[_Change, ...] = (
        lambda rank, dim, size: 2 * size if rank < 4 and dim == 1 else size,
        lambda rank, dim, size: max(size // 2, 1) if rank < 4 and dim == 1 else size,
    )
    return _others(inputs, changes)


def _others(inputs: Inputs, changes: Iterable[_Change]) -> Iterator[Inputs]:
    before = [x.shape[1:] for x in _tensors(inputs)]
    for samples in _SAMPLES:
        for change in changes:
            others = _resized(inputs, samples, change)
            if [x.shape[1:] for x in _tensors(others)] != before:
                yield others


def _resized(inputs: Inputs, samples: Callable[[int], int], change: _Change) -> Inputs:
    """Copy the inputs with another number of samples, and other lengths, without numbers."""
    batch = next((len(x) for x in _tensors(inputs)), 0)

    def resized(x: torch.Tensor) -> torch.Tensor:
        sizes = [change(x.dim(), dim, size) for dim, size in enumerate(x.shape)]
        if x.dim() and len(x) == batch:
            sizes[0] = samples(batch)
        return torch.empty(sizes, dtype=x.dtype, device="meta")

    made: Inputs = pytree.tree_map_only(torch.Tensor, resized, inputs)
    return made


def _tensors(inputs: Inputs) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor) and x.dim()]
