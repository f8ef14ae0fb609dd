"""Watch the layers of a running network: inputs, steps in time, and states of cells."""

from __future__ import annotations

import functools

from torch import nn

from fxprune.pytorch.shaped_layers import is_shaped
from fxprune.pytorch.torch_private import hooks_of

from .state import AnalysisState
from .time_steps import TimeSteps


def watch_layers(root: nn.Module, state: AnalysisState) -> None:
    """Record the input of every layer with shape attributes; shorten recurrent ones in time."""
    steps = TimeSteps(state)
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
