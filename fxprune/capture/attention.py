"""Compute PyTorch's multi-head attention by operations that analysis and rewrite know.

PyTorch's own code branches on ranks, devices and the gradient mode, and calls kernels that hide every width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.pytorch.torch_private import has_packed_projection

Three = tuple[Any, Any, Any]


def can_decompose(layer: nn.MultiheadAttention) -> bool:
    """Tell whether :func:`attention` covers a layer: nothing is appended to its keys and values."""
    return layer.bias_k is None and layer.bias_v is None and not layer.add_zero_attn


def attention(
    layer: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Compute ``layer(query, key, value, ...)`` as ``nn.MultiheadAttention`` does."""
    separate = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    packed = layer.in_proj_weight if has_packed_projection(layer) else None
    return _attend(
        _projected((query, key, value), packed, separate, layer.in_proj_bias),
        layer.num_heads,
        layer.out_proj,
        lambda: not layer.batch_first and query.dim() == 3,
        (attn_mask, key_padding_mask, is_causal),
        need_weights,
        average_attn_weights,
        (layer.dropout, layer.training),
    )


def functional(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None] | None:
    """Compute ``F.multi_head_attention_forward(...)``; None for cases without a decomposition."""
    given = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
    given.apply_defaults()
    each = given.arguments
    appended = any(each[name] is not None for name in ("bias_k", "bias_v", "static_k", "static_v"))
    if appended or each["add_zero_attn"]:
        return None
    query = each["query"]
    separate = (each["q_proj_weight"], each["k_proj_weight"], each["v_proj_weight"])
    packed = None if each["use_separate_proj_weight"] else each["in_proj_weight"]
    return _attend(
        _projected((query, each["key"], each["value"]), packed, separate, each["in_proj_bias"]),
        each["num_heads"],
        lambda x: F.linear(x, each["out_proj_weight"], each["out_proj_bias"]),
        lambda: query.dim() == 3,
        (each["attn_mask"], each["key_padding_mask"], each["is_causal"]),
        each["need_weights"],
        each["average_attn_weights"],
        (each["dropout_p"], each["training"]),
    )


def _projected(inputs: Three, packed: Any, separate: Three, bias: Any) -> Three:
    """Project query, key and value [..., length, width]; ``packed``: the three weights in one."""
    query, key, value = inputs
    if packed is not None and query is key and key is value:
        q, k, v = F.linear(query, packed, bias).chunk(3, -1)
        return q, k, v
    w_q, w_k, w_v = separate if packed is None else packed.chunk(3)
    b_q, b_k, b_v = (None, None, None) if bias is None else bias.chunk(3)
    return F.linear(query, w_q, b_q), F.linear(key, w_k, b_k), F.linear(value, w_v, b_v)


def _attend(
    projected: Three,
    heads: int,
    project: Callable[[Any], Any],
    sequence_first: Callable[[], bool],
    masks: Three,
    need_weights: bool,
    average: bool,
    dropout: tuple[float, bool],
) -> tuple[Tensor, Tensor | None]:
    """softmax(q.k / sqrt(head dim)) v, per head, and the weights [..., length, sources].

    ``sequence_first`` is called only if needed, since it may depend on the rank of the input. ``dropout`` holds its
    probability, and whether it is active.
    """
    turned = sequence_first()
    q, k, v = (_heads(x.transpose(0, 1) if turned else x, heads) for x in projected)
    attn_mask, padding, is_causal = masks
    if is_causal and attn_mask is None:
        raise RuntimeError("is_causal needs attn_mask: it says which mask the causal one is.")
    causal = is_causal and padding is None and not need_weights
    mask = None if causal else _joined(_per_head(attn_mask, heads, q), _over_sources(padding))
    if need_weights:
        weights = _scores(q, k, mask).softmax(-1)
        weights = F.dropout(weights, dropout[0], dropout[1]) if dropout[0] else weights
        x = torch.matmul(weights, v)
    else:
        weights = None
        taken = mask.logical_not() if mask is not None and mask.dtype == torch.bool else mask
        x = F.scaled_dot_product_attention(
            q, k, v, attn_mask=taken, dropout_p=dropout[0] * dropout[1], is_causal=causal
        )
    x = project(x.transpose(-3, -2).flatten(-2))
    x = x.transpose(0, 1) if turned else x
    return x, weights.mean(-3) if weights is not None and average else weights


def _heads(x: Any, heads: int) -> Any:
    """[..., length, width] -> [..., heads, length, width / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def _scores(q: Any, k: Any, mask: Any) -> Any:
    scores = torch.matmul(q * q.size(-1) ** -0.5, k.transpose(-2, -1))
    if mask is None:
        return scores
    return scores.masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else scores + mask


def _per_head(mask: Any, heads: int, q: Any) -> Any:
    """Split the axis batch * heads of a mask [batch * heads, length, sources], if it has one."""
    if mask is None or mask.dim() == 2 or q.dim() == 3:
        return mask
    return mask.unflatten(0, (-1, heads))


def _over_sources(padding: Any) -> Any:
    """[..., sources] -> [..., 1, 1, sources]."""
    return None if padding is None else padding.unsqueeze(-2).unsqueeze(-2)


def _joined(mask: Any, padding: Any) -> Any:
    """Join two masks: True, or minus infinity, where one of them masks a source."""
    if mask is None or padding is None:
        return padding if mask is None else mask
    if mask.dtype == torch.bool:
        mask, padding = padding, mask
    if padding.dtype != torch.bool:
        return mask + padding
    return mask.logical_or(padding) if mask.dtype == torch.bool else mask.masked_fill(padding, float("-inf"))
