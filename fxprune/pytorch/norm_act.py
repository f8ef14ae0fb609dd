"""Recognise timm's batch normalisation with an activation, two of PyTorch's layers."""

from __future__ import annotations

import sys

from torch import nn

from fxprune.pytorch.torch_private import children_of, hooks_of

_MODULE = "timm.layers.norm_act"
# Their code reads nothing but the settings of the layer.
_ACTIVATIONS = frozenset({
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish, nn.Hardsigmoid,
    nn.Sigmoid, nn.Tanh,
})  # fmt: skip


def is_norm_act(layer: nn.Module) -> bool:
    """Tell whether a layer is of timm's class, as it was, with PyTorch's activation inside."""
    place = sys.modules.get(_MODULE)  # not imported: then no layer is of its class
    if place is None or type(layer) is not place.BatchNormAct2d:
        return False
    # A function that somebody else put there has global variables of its own.
    unchanged = getattr(type(layer).forward, "__globals__", None) is vars(place)
    return unchanged and dict(children_of(layer)).keys() == {"drop", "act"} and all(map(_is_usual, layer.children()))


def _is_usual(layer: nn.Module) -> bool:
    return type(layer) in _ACTIVATIONS and "forward" not in vars(layer) and not hooks_of(layer)
