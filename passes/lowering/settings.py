"""``type(layer)(**layer_settings(layer))`` is the same layer with other numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fxprune.common.torch_private import hooks_of

# Arguments that a layer keeps under another name, or as a tensor.
_KEPT_OTHERWISE: dict[tuple[type[nn.Module], str], Callable[[Any], Any]] = {
    (nn.MultiheadAttention, "bias"): lambda layer: layer.in_proj_bias is not None,
    (nn.MultiheadAttention, "add_bias_kv"): lambda layer: layer.bias_k is not None,
}
# Arguments that say nothing about a layer with given tensors, and deprecated ones.
_LEFT_OUT = frozenset({"self", "device", "dtype", "min_value", "max_value"})
# Attributes that every module has.
_OF_MODULES = frozenset(vars(nn.Module()))


def layer_settings(layer: nn.Module) -> dict[str, Any]:
    """Return the fewest and shortest arguments that construct a layer of ``torch.nn``.

    Values are None, bool, int, float, str, and tuples of these. The layer is constructed again, on the meta device, to
    compare all its attributes and the shapes of its tensors.

    Raises:
        ValueError: it is not exactly a layer of ``torch.nn``, or has something that no argument states, such as a hook.

    >>> layer_settings(nn.Conv2d(3, 8, (3, 3), padding=1, bias=False))
    {'in_channels': 3, 'out_channels': 8, 'kernel_size': 3, 'padding': 1, 'bias': False}
    """
    kind = type(layer)
    if getattr(nn, kind.__name__, None) is not kind:
        raise ValueError(f"{kind.__module__}.{kind.__qualname__} is not a layer of torch.nn")
    if hooks_of(layer):
        raise ValueError(f"this {kind.__name__} has a hook, which no argument states")
    wanted, arguments = _facts(layer), dict(_arguments(kind))
    settings = {name: _value(layer, name, default) for name, default in arguments.items()}
    settings = {name: value for name, value in settings.items() if not _equal(value, arguments[name])}
    if odd := next(_differing(wanted, _constructed(kind, settings)), None):
        call = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        raise ValueError(f"{kind.__name__}({call}) has another `{odd}` than this layer, which no argument states")
    for name in list(settings):
        for shorter in _shorter(settings, name, arguments[name]):
            if not any(_differing(wanted, _constructed(kind, shorter))):
                settings = shorter
                break
    return settings


def _arguments(kind: type[nn.Module]) -> Iterator[tuple[str, Any]]:
    """Yield the names of a constructor's arguments, with their defaults."""
    recurrent = issubclass(kind, nn.RNNBase)  # these take any arguments, and hand them to their base
    parameters = inspect.signature(nn.RNNBase.__init__ if recurrent else kind.__init__).parameters
    for name, parameter in parameters.items():
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and not name.startswith("_")
        if named and name not in _LEFT_OUT and not (recurrent and name == "mode"):
            yield name, parameter.default
    if kind is nn.RNN:
        yield "nonlinearity", "tanh"


def _value(layer: nn.Module, name: str, default: Any) -> Any:
    for (kind, argument), read in _KEPT_OTHERWISE.items():
        if isinstance(layer, kind) and argument == name:
            return read(layer)
    value = getattr(layer, name, default)
    if name == "bias" and not isinstance(value, bool):
        return value is not None
    return _as_tuple(value)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, tuple | list) else value


def _equal(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _shorter(settings: Mapping[str, Any], name: str, default: Any) -> Iterator[dict[str, Any]]:
    """Yield the settings without one argument, and with one number for equal sizes."""
    value = settings[name]
    if default is not inspect.Parameter.empty:
        yield {other: settings[other] for other in settings if other != name}
    if isinstance(value, tuple) and value and all(type(v) is int and v == value[0] for v in value):
        yield {**settings, name: value[0]}


def _constructed(kind: type[nn.Module], settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        with torch.device("meta"):
            return _facts(kind(**settings))
    except Exception as error:  # a constructor may raise any exception
        return {"constructor": error}


def _differing(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Yield names of attributes and tensors that are not the same in both layers."""
    for name in dict.fromkeys([*wanted, *found]):
        if name not in wanted or name not in found or wanted[name] != found[name]:
            yield name


def _facts(layer: nn.Module) -> dict[str, Any]:
    """Return all that makes a layer but the numbers in its tensors and the mode."""
    tensors = {**layer._parameters, **layer._buffers}
    facts: dict[str, Any] = {name: None if x is None else tuple(x.shape) for name, x in tensors.items()}
    facts |= {f"{name} in the state": name not in layer._non_persistent_buffers_set for name in layer._buffers}
    facts |= {f"child {name}": type(child) for name, child in layer.named_children()}
    own = {name: value for name, value in vars(layer).items() if name not in _OF_MODULES and not name.startswith("_")}
    return facts | own | {"extra_repr": layer.extra_repr()}
