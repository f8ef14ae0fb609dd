"""Test whether a call that is one node adapts to a narrow input, or depends on its width.

The call runs again on the meta device, with half of the channels that may still merge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxprune.pytorch.modules import MetaMode, map_tensors, named_tensors
from fxprune.pytorch.shaped_layers import ADAPT
from fxprune.pytorch.torch_private import no_dispatch, op_arguments, pytree

from .labels import Label, tensors_in
from .state import AnalysisState


def adapts_to_width(
    state: AnalysisState, call: Callable[..., Any], args: Any, kwargs: Any, value: Any, layer: str = ""
) -> bool:
    """Tell whether a call with narrow inputs has narrow outputs, and the same numbers inside.

    Args:
        state: holds the labels of tensors; it is not changed.
        call: a function or a module.
        args: positional arguments of the wide call, tensors on the meta device.
        kwargs: its keyword arguments.
        value: what it returned.
        layer: name of the call if it is a layer that the rewrite adapts: it becomes narrow, too.
    """
    own = [tensor for _, tensor in named_tensors(call)] if isinstance(call, nn.Module) and layer else []
    labels = {id(tensor): state.origins.label(tensor) for tensor in (*tensors_in((args, kwargs)), *own)}
    channel = state.channels.channel
    ids = [axis for label in labels.values() for axis in label.axes if axis is not None]
    if not ids:
        return True
    frozen = np.concatenate([event.ids for event in state.marks.frozen] or [np.zeros(0, np.int64)])
    every = np.setdiff1d(channel(np.concatenate(ids)), channel(frozen))
    kept = every[::2]

    def sizes(shape: torch.Size, label: Label) -> tuple[int, ...]:
        lengths = []
        for size, axis in zip(shape, label.axes, strict=True):
            inside = None if axis is None else channel(axis)
            # Frozen channels never change; others, for example those of a parameter inside, do not in this trial.
            lengths.append(size if inside is None else int((np.isin(inside, kept) | ~np.isin(inside, every)).sum()))
        return tuple(lengths)

    def narrow(tensor: Tensor) -> Tensor:
        return torch.empty(sizes(tensor.shape, labels[id(tensor)]), dtype=tensor.dtype, device="meta")

    def narrow_layer(call: nn.Module) -> nn.Module:
        small = map_tensors(call, lambda _, tensor: narrow(tensor))
        given, label = state.layers.found[layer][-1]
        next(ADAPT[kind] for kind in type(small).__mro__ if kind in ADAPT)(small, given, sizes(given, label))
        return small

    try:
        _, wide = _run(call, *pytree.tree_map_only(Tensor, torch.empty_like, (args, kwargs)))
        small = narrow_layer(call) if isinstance(call, nn.Module) and layer else call
        result, found = _run(small, *pytree.tree_map_only(Tensor, narrow, (args, kwargs)))
    except Exception:  # a fixed width may cause any exception
        return False
    if wide != found or _numbers_in(value) != _numbers_in(result):
        return False
    returned = [sizes(tensor.shape, state.labels.of(tensor)) for tensor in tensors_in(value)]
    return returned == [tuple(tensor.shape) for tensor in tensors_in(result)]


def _run(call: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, list[Any]]:
    """Return the result of a call, and the operators and numbers that it computes with."""
    found: list[Any] = []
    with _Operators(found), _Constants(found), torch.device("meta"):
        return call(*args, **kwargs), found


def _numbers_in(value: Any) -> list[int | float]:
    return [leaf for leaf in pytree.tree_leaves(value) if type(leaf) in (bool, int, float)]


class _Operators(MetaMode):
    """A mode that notes operators and their numbers; sizes are none."""

    def __init__(self, found: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with no_dispatch():
            return super().__torch_dispatch__(func, types, args, kwargs)

    def done(self, func: Any, args: Any, kwargs: Any, out: Any, layout: Any) -> Any:
        kinds = {argument.name: str(argument.type) for argument in op_arguments(func)}
        given = [*zip(kinds, args, strict=False), *kwargs.items()]
        numbers = [each for name, each in given if isinstance(each, float) or kinds[name] in _NUMBERS]
        self._found.append((func, [each for each in numbers if isinstance(each, (bool, int, float, complex))]))
        return out


# Types of arguments that are numbers; a tensor may be one.
_NUMBERS = ("number", "Tensor", "Optional[number]", "Optional[Tensor]")


class _Constants(TorchFunctionMode):
    """A mode that notes the numbers of new tensors, which the meta device does not keep."""

    def __init__(self, found: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            self._found.append(_numbers_in((args, kwargs)))
        return func(*args, **(kwargs or {}))
