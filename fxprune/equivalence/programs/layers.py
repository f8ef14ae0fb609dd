"""Calls of PyTorch's own layers are single entries of a program.

Two calls compute the same if class, settings, stored tensors and inputs are the same: such a layer draws no random
numbers, keeps nothing but its buffers, and returns new tensors. Its hooks are recorded as usual, since they run around
its ``forward``. Where a mode of somebody else is on, or a function is another one than at the start of the record, the
operators inside of the call are recorded instead.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxprune.pytorch.torch_private import RECURRENT_NAMES, active_modes, recurrent_functions, tensor_tables

from ..contents import names_in

_LAYERS = frozenset({
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RNN, nn.GRU, nn.LSTM,
})  # fmt: skip
# Constants in a form with a hash, and stored tensors, both by name.
Settings = tuple[tuple[Any, ...], list[tuple[str, Any]]]
_CONSTANTS = frozenset({type(None), bool, int, float, str})
_OWN = frozenset(vars(nn.Module())) - {"training"} | {"forward"} | RECURRENT_NAMES
# A table, its size, what looks names up there, and what it found.
_Names = list[tuple[Any, int, Callable[[Any], Any], Any]]
_known: dict[type[nn.Module], _Names] = {}


@contextlib.contextmanager
def layers_recorded(network: nn.Module, record: Callable[..., Any]) -> Iterator[None]:
    """Let ``record(layer, settings, forward, inputs)`` answer calls of layers."""
    layers = [module for module in network.modules() if type(module) in _LAYERS and "forward" not in vars(module)]
    names = {kind: _names_of(kind) for kind in set(map(type, layers))}
    for layer in layers:
        called = functools.partial(_called, layer, names[type(layer)], record)
        vars(layer)["forward"] = functools.update_wrapper(called, layer.forward)  # with its name and signature
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _called(layer: nn.Module, names: _Names, record: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    forward = functools.partial(type(layer).forward, layer)
    settings = _settings(layer) if _is_usual(names, args) and not kwargs else None
    return forward(*args, **kwargs) if settings is None else record(layer, settings, forward, args)


def _names_of(kind: type[nn.Module]) -> _Names:
    """List where a call of a layer looks names up, how many are there, and what it finds."""
    if kind not in _known or not _are_held(_known[kind]):
        classes = kind.__mro__[:-1]
        modules = *(sys.modules[each.__module__] for each in classes), F, torch, recurrent_functions
        tables = [vars(holder) for holder in (*classes, *modules)]
        waiting, used = [kind.__call__, kind.forward], {"__call__", "forward"}
        while waiting:
            code = getattr(waiting.pop(), "__code__", None)
            names = names_in(code) - used if code else set()
            used |= names
            waiting += [table[name] for name in names for table in tables if name in table]
        held = [(table, [name for name in used if name in table]) for table in tables]
        finds = [(table, operator.itemgetter(*names) if names else _nothing) for table, names in held]
        _known[kind] = [(table, len(table), find, find(table)) for table, find in finds]
    return _known[kind]


def _nothing(_: Any) -> None:
    """Look up no name, in a table whose size alone tells whether one has come."""


def _are_held(names: _Names) -> bool:
    try:
        return all(len(table) == size and find(table) == found for table, size, find, found in names)
    except KeyError:
        return False


def _is_usual(names: _Names, args: Sequence[Any]) -> bool:
    """Tell whether a call runs PyTorch's own functions on plain tensors, under our modes."""
    return len(args) > 0 and all(map(is_plain, args)) and own_modes_only() and _are_held(names)


def own_modes_only() -> bool:
    """Tell whether no mode of somebody else is on."""
    return all(type(mode).__module__.startswith("fxprune.") for mode in active_modes())


def is_plain(value: Any) -> bool:
    """Tell whether a value is a tensor of no class of somebody else, or a tuple of such."""
    if type(value) is tuple:
        return all(map(is_plain, value))
    return type(value) in (torch.Tensor, nn.Parameter)


def _settings(layer: nn.Module) -> Settings | None:
    """List what a call depends on beside its inputs; None: it may draw, or read more."""
    if getattr(layer, "dropout", 0):
        return None
    constants, tensors = [], []
    for name, value in vars(layer).items():
        if name in _OWN:
            continue
        constant = _constant(value)
        if constant is not None:
            constants.append((name, constant))
        elif _holds_parameters(value):
            tensors.append((name, value))
        else:
            return None
    for table in tensor_tables(layer):
        tensors += table.items()
    return tuple(constants), tensors


def _constant(value: Any) -> tuple[Any, ...] | None:
    """Return a constant, or a nest of constants, with its types; None for other values."""
    kind = type(value)
    if kind in _CONSTANTS:
        return kind, value
    if kind is not tuple and kind is not list:
        return None
    inside = [_constant(each) for each in value]
    return None if None in inside else (kind, *inside)


def _holds_parameters(value: Any) -> bool:
    """Tell whether a setting is a stored tensor, or a nest of constants and stored tensors."""
    if type(value) in (tuple, list):
        return all(map(_holds_parameters, value))
    return type(value) in _CONSTANTS or type(value) is nn.Parameter
