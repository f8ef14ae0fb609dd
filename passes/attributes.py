"""Layers tell the truth: shape attributes follow from the narrow tensors and from the channels that come in."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.rnn import RNNCellBase

from fxprune.errors import RewriteError
from fxprune.leaves import is_transposed
from fxprune.plans import Plan

from .rewrite import narrow_sizes

# Layers whose channels come in on the last axis.
_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.RNNBase, RNNCellBase)


def adapt_layers(module: fx.GraphModule, plan: Plan) -> None:
    """Set the shape attributes of every layer that was called, in place.

    Raises:
        RewriteError: one layer is called on inputs of different widths.
    """
    layers = dict(module.named_modules())
    for name, shapes in plan.coupling.layers.items():
        layer = layers[name]
        case = next((ADAPT[kind] for kind in type(layer).__mro__ if kind in ADAPT), None)
        every = [narrow_sizes(plan, shape) for shape in shapes]
        if case is None or not every:
            continue
        widths = {sizes[_channel_axis(layer, len(sizes))] for sizes in every if sizes}
        if len(widths) > 1 and not isinstance(layer, (nn.PReLU, nn.Embedding)):
            raise RewriteError(f"layer `{name}` is called on {sorted(widths)} channels; it cannot have several widths.")
        case(layer, max(every, key=len))


def _channel_axis(layer: nn.Module, rank: int) -> int:
    if isinstance(layer, _ConvNd):
        return rank - len(layer.kernel_size) - 1
    return -1 if isinstance(layer, _LAST) else min(1, rank - 1)


def _convolution(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    assert isinstance(layer, _ConvNd)
    first, second = layer.weight.shape[:2]
    width = sizes[_channel_axis(layer, len(sizes))]
    # The part of the input that one group reads tells how many groups there are.
    layer.groups = width // (first // layer.groups if is_transposed(layer) else second)
    layer.in_channels = width
    layer.out_channels = second * layer.groups if is_transposed(layer) else first


def _linear(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    assert isinstance(layer, nn.Linear)
    layer.out_features, layer.in_features = layer.weight.shape


def _statistics_norm(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    assert isinstance(layer, _NormBase)
    layer.num_features = sizes[1]


def _layer_norm(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    assert isinstance(layer, (nn.LayerNorm, nn.RMSNorm))
    if layer.weight is not None:
        layer.normalized_shape = tuple(layer.weight.shape)
    elif type(layer).forward in (nn.LayerNorm.forward, nn.RMSNorm.forward):
        layer.normalized_shape = sizes[len(sizes) - len(layer.normalized_shape) :]
    elif len(layer.normalized_shape) == 1:  # derived classes that normalise axis 1 of [n, c, h, w]
        layer.normalized_shape = (sizes[1],)


def _group_norm(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    assert isinstance(layer, nn.GroupNorm)
    layer.num_channels = sizes[1]


def _prelu(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    assert isinstance(layer, nn.PReLU)
    layer.num_parameters = layer.weight.numel()


def _embedding(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    assert isinstance(layer, nn.Embedding)
    layer.num_embeddings, layer.embedding_dim = layer.weight.shape


def _recurrent(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    assert isinstance(layer, nn.RNNBase)
    state = layer.get_parameter("weight_hh_l0").shape[1]
    layer.input_size = layer.get_parameter("weight_ih_l0").shape[1]
    layer.hidden_size = layer.get_parameter("weight_hr_l0").shape[1] if layer.proj_size else state
    layer.proj_size = state if layer.proj_size else 0


def _recurrent_cell(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    assert isinstance(layer, RNNCellBase)
    layer.input_size, layer.hidden_size = layer.weight_ih.shape[1], layer.weight_hh.shape[1]


ADAPT: dict[type[nn.Module], Callable[[nn.Module, tuple[int, ...]], None]] = {
    _ConvNd: _convolution,
    nn.Linear: _linear,
    _NormBase: _statistics_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.PReLU: _prelu,
    nn.Embedding: _embedding,
    nn.RNNBase: _recurrent,
    RNNCellBase: _recurrent_cell,
}
