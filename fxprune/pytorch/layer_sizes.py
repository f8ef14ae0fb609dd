"""List the layers whose attributes state their widths, and update these attributes.

In the graph each is one node.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.modules.rnn import RNNCellBase

from fxprune.pytorch.torch_private import ConvNd, ConvTransposeNd, NormBase

Sizes = tuple[int, ...]

# Layers whose channels come in on the last axis.
_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.RNNBase, RNNCellBase)


def is_shaped(module: nn.Module) -> bool:
    """Tell whether a module is one of these layers or of a class derived from one."""
    return isinstance(module, SHAPED_LAYERS)


def is_transposed(module: nn.Module) -> bool:
    """Tell whether a convolution's weight has the layout [in, out / groups, ...]."""
    return isinstance(module, ConvTransposeNd)


def channel_axis(layer: nn.Module, wide: Sizes, narrow: Sizes) -> int:
    """Find the input axis that holds a layer's channels, from the wide and narrow input sizes."""
    if isinstance(layer, ConvNd):
        return len(wide) - len(layer.kernel_size) - 1
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and len(layer.normalized_shape) == 1 and len(wide) > 1:
        # Derived classes may normalise axis 1 of [n, c, h, w].
        axes = [axis for axis in (-1, 1) if wide[axis] == layer.normalized_shape[0]] or [-1]
        return next((axis for axis in axes if narrow[axis] != wide[axis]), axes[0])
    return -1 if isinstance(layer, _LAST) else min(1, len(wide) - 1)


def _convolution(layer: nn.Module, wide: Sizes, narrow: Sizes) -> None:
    assert isinstance(layer, ConvNd)
    first, second = layer.weight.shape[:2]
    width = narrow[channel_axis(layer, wide, narrow)]
    if not is_transposed(layer):
        # groups = channels of the input / channels that one group reads.
        layer.groups = width // second
    elif layer.groups == layer.in_channels:  # depthwise: whole groups merge, in all others the channels within
        layer.groups = width
    layer.in_channels = width
    layer.out_channels = second * layer.groups if is_transposed(layer) else first


def _linear(layer: nn.Module, wide: Sizes, narrow: Sizes) -> None:
    assert isinstance(layer, nn.Linear)
    layer.out_features, layer.in_features = layer.weight.shape


def _bilinear(layer: nn.Module, wide: Sizes, narrow: Sizes) -> None:
    assert isinstance(layer, nn.Bilinear)
    layer.out_features, layer.in1_features, layer.in2_features = layer.weight.shape


def _statistics_norm(layer: nn.Module, wide: Sizes, narrow: Sizes) -> None:
    assert isinstance(layer, NormBase)
    layer.num_features = narrow[1]


def _layer_norm(layer: nn.Module, wide: Sizes, narrow: Sizes) -> None:
    assert isinstance(layer, (nn.LayerNorm, nn.RMSNorm))
    if layer.weight is not None:
        layer.normalized_shape = tuple(layer.weight.shape)
    elif channel_axis(layer, wide, narrow) == 1:
        layer.normalized_shape = (narrow[1],)
    else:
        layer.normalized_shape = narrow[len(narrow) - len(layer.normalized_shape) :]


def _group_norm(layer: nn.Module, wide: Sizes, narrow: Sizes) -> None:
    assert isinstance(layer, nn.GroupNorm)
    if layer.num_groups == layer.num_channels:
        layer.num_groups = narrow[1]
    layer.num_channels = narrow[1]


def _prelu(layer: nn.Module, wide: Sizes, narrow: Sizes) -> None:
    assert isinstance(layer, nn.PReLU)
    layer.num_parameters = layer.weight.numel()


def _embedding(layer: nn.Module, wide: Sizes, narrow: Sizes) -> None:
    assert isinstance(layer, (nn.Embedding, nn.EmbeddingBag))
    layer.num_embeddings, layer.embedding_dim = layer.weight.shape


def _recurrent(layer: nn.Module, wide: Sizes, narrow: Sizes) -> None:
    assert isinstance(layer, nn.RNNBase)
    state = layer.get_parameter("weight_hh_l0").shape[1]
    layer.input_size = layer.get_parameter("weight_ih_l0").shape[1]
    layer.hidden_size = layer.get_parameter("weight_hr_l0").shape[1] if layer.proj_size else state
    layer.proj_size = state if layer.proj_size else 0


def _recurrent_cell(layer: nn.Module, wide: Sizes, narrow: Sizes) -> None:
    assert isinstance(layer, RNNCellBase)
    layer.input_size, layer.hidden_size = layer.weight_ih.shape[1], layer.weight_hh.shape[1]


# Layer -> function that sets its attributes, given it and the sizes of its input, wide and narrow.
ADAPT: dict[type[nn.Module], Callable[[nn.Module, Sizes, Sizes], None]] = {
    ConvNd: _convolution,
    nn.Linear: _linear,
    nn.Bilinear: _bilinear,
    NormBase: _statistics_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.PReLU: _prelu,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding,
    nn.RNNBase: _recurrent,
    RNNCellBase: _recurrent_cell,
}

SHAPED_LAYERS = tuple(ADAPT)
