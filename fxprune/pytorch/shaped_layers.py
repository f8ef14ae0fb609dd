"""List the layers whose attributes state their widths; the rewrite updates these attributes.

In the graph each is one node.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.rnn import RNNCellBase

from fxprune.pytorch.torch_private import ConvNd, ConvTransposeNd, NormBase

SHAPED_LAYERS: tuple[type[nn.Module], ...] = (
    ConvNd,
    NormBase,
    nn.Linear,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.PReLU,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    RNNCellBase,
)


def is_shaped(module: nn.Module) -> bool:
    """Tell whether a module is one of these layers or of a class derived from one."""
    return isinstance(module, SHAPED_LAYERS)


def is_transposed(module: nn.Module) -> bool:
    """Tell whether a convolution's weight has the layout [in, out / groups, ...]."""
    return isinstance(module, ConvTransposeNd)
