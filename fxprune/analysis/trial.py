"""Test whether a call that is one node adapts to a narrow input, or contains a fixed width.

The call runs again on the meta device, with half of the channels that may still merge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fxprune.pytorch.torch_private import pytree

from .labels import Label, tensors_in
from .state import AnalysisState


def adapts_to_width(state: AnalysisState, run: Callable[[Any, Any], Any], args: Any, kwargs: Any, value: Any) -> bool:
    """Tell whether ``run`` on narrow inputs returns narrow outputs, and the same numbers."""
    given = tensors_in((args, kwargs))
    label_of, channel = state.labels.of, state.channels.channel
    ids = [axis for tensor in given for axis in label_of(tensor).axes if axis is not None]
    if not ids:
        return True
    frozen = np.concatenate([event.ids for event in state.marks.frozen] or [np.zeros(0, np.int64)])
    every = np.setdiff1d(channel(np.concatenate(ids)), channel(frozen))
    kept = every[::2]

    def sizes(shape: torch.Size, label: Label) -> list[int]:
        lengths = []
        for size, axis in zip(shape, label.axes, strict=True):
            inside = None if axis is None else channel(axis)
            # Frozen channels never change; others, for example those of a parameter inside, do not in this trial.
            lengths.append(size if inside is None else int((np.isin(inside, kept) | ~np.isin(inside, every)).sum()))
        return lengths

    def narrow(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(sizes(tensor.shape, label_of(tensor)), dtype=tensor.dtype, device="meta")

    try:
        result = run(*pytree.tree_map_only(torch.Tensor, narrow, (args, kwargs)))
    except Exception:  # a fixed width may cause any exception
        return False
    wanted = [sizes(tensor.shape, label_of(tensor)) for tensor in tensors_in(value)]
    numbers, found = ([x for x in pytree.tree_leaves(each) if type(x) is int] for each in (value, result))
    return wanted == [list(tensor.shape) for tensor in tensors_in(result)] and numbers == found
