"""Layers whose own attributes state their widths: they stay whole in the graph, and the rewrite keeps them truthful."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.rnn import RNNCellBase

from fxprune.common.torch_private import ConvNd, ConvTransposeNd, NormBase

SHAPED_LAYERS: tuple[type[nn.Module], ...] = (
    ConvNd,
    NormBase,
    nn.Linear,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.PReLU,
    nn.Embedding,
    nn.RNNBase,
    RNNCellBase,
)


def is_shaped(module: nn.Module) -> bool:
    """Whether a module is one of these layers or of a class derived from one (and not a container of others)."""
    return isinstance(module, SHAPED_LAYERS)


def is_transposed(module: nn.Module) -> bool:
    """Whether a convolution's weight is laid out as [in, out / groups, ...]."""
    return isinstance(module, ConvTransposeNd)
