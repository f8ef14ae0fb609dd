"""Decompose PyTorch layers that hide several operations behind fused kernels.

Traced through these functions, a layer shows its attention, its linear layers and its normalisations to the analysis
and to the rewrite. Each returns what the layer's own ``forward`` returns in eval mode, with the same arguments.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.pytorch.network import unwrap_model
from fxprune.pytorch.torch_private import encoder_blocks

from . import attention


def decomposition(layer: nn.Module) -> Callable[..., Any] | None:
    """Return a function to trace in place of a layer's ``forward``; None: it stays one node.

    The function takes the layer and its arguments. A derived class with its own ``forward`` has no decomposition.
    A wrapper, as DataParallel around the features of a network, is what is inside.
    """
    if unwrap_model(layer) is not layer:
        return _unwrapped
    for kind, forward in _DECOMPOSITIONS.items():
        if isinstance(layer, kind) and type(layer).forward is kind.forward:
            return forward if not isinstance(layer, nn.MultiheadAttention) or attention.can_decompose(layer) else None
    return None


def decomposition_for(layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[..., Any] | None:
    """Return the :func:`decomposition` for one call, without the layer as an argument.

    An encoder that packs padded sequences returns zeros for the padding: then it stays one node.
    """
    forward = decomposition(layer)
    if forward is None:
        return None
    if forward is _encoder and getattr(layer, "use_nested_tensor", False):
        given = inspect.signature(forward).bind(layer, *args, **kwargs).arguments
        if given.get("src_key_padding_mask") is not None:
            return None
    return functools.partial(forward, layer)


def _encoder_layer(
    layer: nn.TransformerEncoderLayer,
    src: Tensor,
    src_mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    attention_block, feed_forward = encoder_blocks(layer)
    attend = functools.partial(
        attention_block, attn_mask=src_mask, key_padding_mask=src_key_padding_mask, is_causal=is_causal
    )
    if layer.norm_first:
        src = src + attend(layer.norm1(src))
        return src + feed_forward(layer.norm2(src))
    src = layer.norm1(src + attend(src))
    result: Tensor = layer.norm2(src + feed_forward(src))
    return result


def _encoder(
    layer: nn.TransformerEncoder,
    src: Tensor,
    mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool | None = None,
) -> Tensor:
    # Without a hint PyTorch checks whether the mask is causal, which changes the kernel but not the numbers.
    for each in layer.layers:
        src = each(src, src_mask=mask, is_causal=bool(is_causal), src_key_padding_mask=src_key_padding_mask)
    return src if layer.norm is None else layer.norm(src)


def _decoder(
    layer: nn.TransformerDecoder,
    tgt: Tensor,
    memory: Tensor,
    tgt_mask: Tensor | None = None,
    memory_mask: Tensor | None = None,
    tgt_key_padding_mask: Tensor | None = None,
    memory_key_padding_mask: Tensor | None = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
) -> Tensor:
    for each in layer.layers:
        tgt = each(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=bool(tgt_is_causal),
            memory_is_causal=memory_is_causal,
        )
    return tgt if layer.norm is None else layer.norm(tgt)


def _transformer(
    layer: nn.Transformer,
    src: Tensor,
    tgt: Tensor,
    src_mask: Tensor | None = None,
    tgt_mask: Tensor | None = None,
    memory_mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    tgt_key_padding_mask: Tensor | None = None,
    memory_key_padding_mask: Tensor | None = None,
    src_is_causal: bool | None = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
) -> Any:
    memory = layer.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
    return layer.decoder(
        tgt,
        memory,
        tgt_mask,
        memory_mask,
        tgt_key_padding_mask,
        memory_key_padding_mask,
        tgt_is_causal,
        memory_is_causal,
    )


def _normalized(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Tensor | None:
    # The length is compared with eps, so it must be correct before.
    return None if out is not None else input / input.norm(p, dim, keepdim=True).clamp_min(eps)


def _cosine(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    # The dim and the length are those of the broadcast tensors.
    both = torch.broadcast_tensors(x1, x2)
    one, other = (x / x.norm(2, dim, keepdim=True).clamp_min(eps) for x in (both[0], both[1]))
    result: Tensor = (one * other).sum(dim)
    return result


def _unwrapped(wrapper: nn.Module, *inputs: Any, **named: Any) -> Any:
    return unwrap_model(wrapper)(*inputs, **named)


def _softmax(layer: nn.Softmax, input: Tensor) -> Tensor:
    return F.softmax(input, layer.dim)


def _log_softmax(layer: nn.LogSoftmax, input: Tensor) -> Tensor:
    return F.log_softmax(input, layer.dim)


_DECOMPOSITIONS: Mapping[type[nn.Module], Callable[..., Any]] = {
    nn.MultiheadAttention: attention.attention,
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.TransformerEncoder: _encoder,
    nn.TransformerDecoderLayer: nn.TransformerDecoderLayer.forward,
    nn.TransformerDecoder: _decoder,
    nn.Transformer: _transformer,
    nn.Softmax: _softmax,
    nn.LogSoftmax: _log_softmax,
    nn.Unflatten: nn.Unflatten.forward,
}

# Function -> its decomposition, which returns None if the call must stay as it is.
FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    F.multi_head_attention_forward: attention.functional,
    F.normalize: _normalized,
    F.cosine_similarity: _cosine,
}
