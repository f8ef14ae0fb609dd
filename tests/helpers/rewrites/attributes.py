"""Attributes of layers say what their tensors are."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def assert_layers_tell_the_truth(module):
    for name, layer in module.named_modules():
        kind = next((kind for kind in TRUTH if isinstance(layer, kind)), None)
        assert kind is None or TRUTH[kind](layer), f"{name}: {layer}"


def convolution_tells(layer):
    first, second = layer.weight.shape[:2]
    told = (layer.in_channels, layer.out_channels // layer.groups)
    if not isinstance(layer, _ConvTransposeNd):
        told = (layer.out_channels, layer.in_channels // layer.groups)
    return told == (first, second) and layer.in_channels % layer.groups == 0 and layer.out_channels % layer.groups == 0


def of_width(layer, width):
    tensors = [layer.weight, layer.bias, getattr(layer, "running_mean", None), getattr(layer, "running_var", None)]
    return all(tensor is None or tensor.shape == (width,) for tensor in tensors)


TRUTH = {
    _ConvNd: convolution_tells,
    nn.Linear: lambda layer: (layer.out_features, layer.in_features) == tuple(layer.weight.shape),
    _NormBase: lambda layer: of_width(layer, layer.num_features),
    nn.LayerNorm: lambda layer: layer.weight is None or tuple(layer.normalized_shape) == tuple(layer.weight.shape),
    nn.GroupNorm: lambda layer: of_width(layer, layer.num_channels) and layer.num_channels % layer.num_groups == 0,
    nn.PReLU: lambda layer: layer.num_parameters == layer.weight.numel(),
    nn.Embedding: lambda layer: (layer.num_embeddings, layer.embedding_dim) == tuple(layer.weight.shape),
}
