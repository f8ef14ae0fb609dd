"""Watch the layers of a running network: inputs, steps in time, and states of cells.

A recurrent layer couples alike at every time step, so its first steps stand for all: PyTorch's operators unroll it in
time, and each step but the first reads the state of the one before.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from fxprune.pytorch.layer_sizes import is_shaped
from fxprune.pytorch.torch_private import functions_plain, hooks_of, no_dispatch

from .labels import Label
from .state import AnalysisState


def watch_layers(root: nn.Module, state: AnalysisState) -> None:
    """Record the input of every layer with shape attributes; shorten recurrent ones in time."""
    steps = _TimeSteps(state)
    for name, module in root.named_modules():
        if is_shaped(module):
            recurrent = type(module) in (nn.RNN, nn.LSTM, nn.GRU) and not hooks_of(module)
            enter = functools.partial(state.layers.enter, name)
            module.register_forward_pre_hook(lambda _, *given, enter=enter: enter(*given), with_kwargs=True)
            if recurrent:
                module.register_forward_pre_hook(steps.shorten, with_kwargs=True)
                module.register_forward_hook(steps.lengthen, with_kwargs=True)
            module.register_forward_hook(lambda *_: state.layers.leave())
        if isinstance(module, nn.RNNCellBase):
            module.register_forward_hook(lambda cell, *_: _unify_state(cell, state))


def _unify_state(cell: nn.Module, state: AnalysisState) -> None:
    """Unify the columns over the state with the rows of a gate: a cell has one width."""
    rows, columns = state.origins.label(cell.get_parameter("weight_hh")).axes
    if rows is not None and columns is not None:
        state.channels.unite(rows[: len(columns)], columns)


class _TimeSteps:
    """Let a recurrent layer read the first time steps alone, and return a result for all."""

    def __init__(self, state: AnalysisState) -> None:
        self._state = state
        # Input, how often the steps repeat, works before.
        self._calls: list[tuple[torch.Tensor, Fraction, int] | None] = []

    def shorten(self, layer: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take the first steps of a sequence, unless positions in time carry channels."""
        given: Any = args[0] if args else None
        time = _time(layer, args)
        label = self._state.labels.of(given) if isinstance(given, torch.Tensor) else Label(())
        fits = len(label.axes) > time and _is_plain(label, time) and not self._state.layers.paused
        length = given.shape[time] if fits else 0
        # The state is a constant, then computed from constants, then from what was computed. Works stay whole numbers.
        # A layer that runs one step has recurrent weights, too.
        few = 3 if length == 1 else next((few for few in range(3, length) if length % few == 0), 0)
        self._calls.append((given, Fraction(length, few), len(self._works())) if few else None)
        if not few:
            return args, kwargs
        with functions_plain(), no_dispatch():
            short = given.narrow(time, 0, 1).repeat_interleave(few, time)
        self._state.labels.attach(short, label)
        return (short, *args[1:]), kwargs

    def lengthen(self, layer: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        """Return the sequence and the last state for all of the input."""
        call, time = self._calls.pop(), _time(layer, args)
        if call is None:
            return out
        given, often, before = call
        label, works = self._state.labels.of(out[0]), self._works()
        if not _is_plain(label, time):
            del works[before:]
            return type(layer).forward(layer, given, *args[1:], **kwargs)
        works[before:] = [(int(macs * often), axes) for macs, axes in works[before:]]
        sizes = [*out[0].shape]
        sizes[time] = given.shape[time]
        with functions_plain(), no_dispatch():  # time is the outermost axis in memory
            every = torch.empty_strided(sizes, out[0].stride(), dtype=out[0].dtype, device="meta")
        self._state.labels.attach(every, label)
        return every, *out[1:]

    def _works(self) -> list[Any]:
        return self._state.notes.macs.setdefault(str(self._state.marks.node), [])


def _time(layer: nn.RNNBase, args: tuple[Any, ...]) -> int:
    """Return the axis of time in the input and the output of a layer."""
    return int(layer.batch_first and isinstance(args[0], torch.Tensor) and args[0].dim() == 3) if args else 0


def _is_plain(label: Label, time: int) -> bool:
    return label.axes[time] is None and label.waiting(time) is None
