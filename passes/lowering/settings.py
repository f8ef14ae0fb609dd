"""``type(layer)(**layer_settings(layer))`` is the same layer with other numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from fxprune.common.objects import is_default
from fxprune.pytorch.modules import own_tensors
from fxprune.pytorch.torch_private import hooks_of, non_persistent_buffers, tensor_tables

# Arguments that a layer keeps under another name, or as a tensor.
_KEPT_OTHERWISE: dict[tuple[type[nn.Module], str], Callable[[Any], Any]] = {
    (nn.MultiheadAttention, "bias"): lambda layer: layer.in_proj_bias is not None,
    (nn.MultiheadAttention, "add_bias_kv"): lambda layer: layer.bias_k is not None,
}
# Arguments that say nothing about a layer with given tensors, or that are deprecated.
_LEFT_OUT = frozenset({"self", "device", "dtype", "init", "min_value", "max_value"})
# Attributes that every module has.
_OF_MODULES = frozenset(vars(nn.Module()))


def layer_settings(layer: nn.Module, kind: type[nn.Module] | None = None) -> dict[str, Any]:
    """Return the arguments that construct a layer, without those that have their default.

    Values are None, bool, int, float, str, and tuples of these. The layer is constructed again, on the meta device, to
    compare its attributes and the shapes of its tensors.

    Args:
        layer: a layer.
        kind: the class to construct, from which that of the layer is derived; then nothing is compared.

    Raises:
        ValueError: the constructor makes another layer, or the layer has a hook.

    >>> layer_settings(nn.Conv2d(3, 8, (3, 3), padding=1, bias=False))
    {'in_channels': 3, 'out_channels': 8, 'kernel_size': (3, 3), 'stride': (1, 1), 'padding': (1, 1), \
'dilation': (1, 1), 'bias': False}
    """
    if hooks_of(layer):
        raise ValueError(f"this {type(layer).__name__} has a hook, which no argument states")
    arguments = dict(_arguments(kind or type(layer)))
    settings = {name: _value(layer, name, default) for name, default in arguments.items()}
    settings = {name: value for name, value in settings.items() if not is_default(value, arguments[name])}
    if kind is None and (odd := _odd(layer, settings)):
        call = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        raise ValueError(
            f"{type(layer).__name__}({call}) has another `{odd}` than this layer, which no argument states"
        )
    return settings


def short_settings(layer: nn.Module) -> dict[str, Any]:
    """Return :func:`layer_settings` as a person would write them: one number for equal sizes.

    >>> short_settings(nn.Conv2d(3, 8, (3, 3), padding=1, bias=False))
    {'in_channels': 3, 'out_channels': 8, 'kernel_size': 3, 'padding': 1, 'bias': False}
    """
    settings, arguments = layer_settings(layer), dict(_arguments(type(layer)))
    for name in list(settings):
        settings = next((each for each in _shorter(settings, name, arguments[name]) if not _odd(layer, each)), settings)
    return settings


def build_layer(kind: type[nn.Module], settings: Mapping[str, Any]) -> nn.Module:
    """Construct a layer in eval mode, whose tensors are on the meta device."""
    on_meta = {"device": "meta"} if "device" in _signature(kind) else {}
    with _Undrawn():  # type: ignore[no-untyped-call]
        return kind(**settings, **on_meta).eval()


class _Undrawn(TorchFunctionMode):
    """Draw no normal numbers: on the meta device, PyTorch would import its compiler."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__ == "normal_":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def plain_layer(layer: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Construct a layer of PyTorch from one of a derived class, with its tensors.

    Raises:
        ValueError: they do not have the same tensors.
    """
    plain = build_layer(kind, layer_settings(layer, kind)).train(layer.training)
    wanted, given = (
        {name: tuple(tensor.shape) for name, tensor in sorted(own_tensors(each))} for each in (plain, layer)
    )
    if wanted != given:
        raise ValueError(f"{kind.__name__} has the tensors {wanted}, and {type(layer).__name__} has {given}")
    for name, tensor in own_tensors(layer):
        if isinstance(tensor, nn.Parameter):
            setattr(plain, name, tensor)
        else:
            plain.register_buffer(name, tensor, persistent=name not in non_persistent_buffers(layer))
    return plain


def _signature(kind: type[nn.Module]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a constructor; recurrent layers hand theirs to their base."""
    return inspect.signature(nn.RNNBase.__init__ if issubclass(kind, nn.RNNBase) else kind.__init__).parameters


def _arguments(kind: type[nn.Module]) -> Iterator[tuple[str, Any]]:
    """Yield the names of a constructor's arguments, with their defaults."""
    for name, parameter in _signature(kind).items():
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and not name.startswith("_")
        if named and name not in _LEFT_OUT and not (issubclass(kind, nn.RNNBase) and name == "mode"):
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


def _shorter(settings: Mapping[str, Any], name: str, default: Any) -> Iterator[dict[str, Any]]:
    """Yield the settings without one argument, and with one number for equal sizes."""
    value = settings[name]
    if default is not inspect.Parameter.empty:
        yield {other: settings[other] for other in settings if other != name}
    if isinstance(value, tuple) and value and all(type(v) is int and v == value[0] for v in value):
        yield {**settings, name: value[0]}


def _odd(layer: nn.Module, settings: Mapping[str, Any]) -> str:
    """Name an attribute or tensor that these settings construct otherwise."""
    try:
        made = _facts(build_layer(type(layer), settings))
    except Exception:  # a constructor may raise any exception
        return "constructor"
    wanted = _facts(layer)
    # What a constructor does not set, the class does not read.
    return next((name for name, value in made.items() if name not in wanted or wanted[name] != value), "")


def _facts(layer: nn.Module) -> dict[str, Any]:
    """Return all of a layer but the numbers in its tensors and the mode."""
    facts: dict[str, Any] = {
        name: None if x is None else tuple(x.shape) for table in tensor_tables(layer) for name, x in table.items()
    }
    kept = non_persistent_buffers(layer)
    facts |= {f"{name} in the state": name not in kept for name, _ in layer.named_buffers(recurse=False)}
    left_out = _OF_MODULES | _LEFT_OUT
    own = {name: value for name, value in vars(layer).items() if name not in left_out and not name.startswith("_")}
    return facts | {name: _as_tuple(value) for name, value in own.items()}
