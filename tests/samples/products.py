"""Sums of products of two activations: exact for clusters of one size, with the size as a factor."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .table import A, free, linear, net, tokens

Q, V = "q.weight", "v.weight"


def _layers(width=8, value=8):
    return {"q": linear(8, width), "k": linear(8, width), "v": linear(8, value)}


def _heads(y, heads=2):
    return y.unflatten(-1, (heads, -1)).transpose(1, 2)


def _plain(s, y):
    attention = s.q(y) @ s.k(y).transpose(-2, -1) * s.q(y).shape[-1] ** -0.5
    return attention.softmax(-1) @ s.v(y)


def _viewed(s, y):
    n, t, c = y.shape
    q, k, v = (layer(y).view(n, t, 2, c // 2).transpose(1, 2) for layer in (s.q, s.k, s.v))
    return (torch.matmul(q, k.mT) / 4).softmax(-1).matmul(v).transpose(1, 2).reshape(n, t, c)


def _packed(s, y):
    n, t, c = y.shape
    q, k, v = s.qkv(y).reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c) + y


def _wide_heads(s, y):
    q, k, v = (_heads(layer(y)) for layer in (s.q, s.k, s.v))
    return F.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2).flatten(2)


def _scale_of_tokens(s, y):
    q, k, v = (_heads(layer(y)) for layer in (s.q, s.k, s.v))
    return F.scaled_dot_product_attention(q, k, v, scale=1 / y.shape[1]).transpose(1, 2).flatten(2)


def _by_keyword(s, y):
    return F.scaled_dot_product_attention(query=s.q(y), key=s.k(y), value=s.v(y))


def _einsum(s, y):
    q, k, v = (_heads(layer(y)) for layer in (s.q, s.k, s.v))
    attention = torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1)
    return torch.einsum("bhnm,bhmd->bnhd", attention, v).flatten(2)


def _linear_attention(s, y):
    return s.q(y).relu() @ (s.k(y).relu().mT @ s.v(y))


def _channel_attention(s, y):
    return ((s.q(y).mT @ s.k(y)).softmax(-1) @ s.v(y).mT).mT


def _learned(s, y):
    return (s.p @ s.k(y).mT).softmax(-1) @ s.v(y)


def _learned_fused(s, y):
    return F.scaled_dot_product_attention(s.p.expand(y.shape[0], -1, -1), s.k(y), s.v(y))


def _one_for_two(s, y):
    k = s.k(y)
    return F.scaled_dot_product_attention(s.p.tanh().expand(y.shape[0], -1, -1), k, k)


def _relative(s, y):
    q = s.q(y)
    return (q @ s.k(y).mT + (q @ s.table.mT)).softmax(-1) @ s.v(y)


def _rotary(s, y):
    turn = torch.linspace(0.5, 2.0, 8)
    q, k, v = (_heads(layer(y), 2) for layer in (s.q, s.k, s.v))
    return F.scaled_dot_product_attention(q * turn, k * turn, v).transpose(1, 2).flatten(2)


def _half(s, y):
    q, k = s.q(y), s.k(y)
    return (q[..., :4] @ k[..., :4].mT).softmax(-1) @ s.v(y) + q


def _two_in_one(s, y):
    return torch.einsum("bnc,bmc,bmd,bkd->bnk", s.q(y), s.k(y), s.v(y), s.u(y)) @ s.v(y)


def _gram(s, x):
    y = s.a(x)
    return s.head(torch.bmm(y, y.mT))


# fmt: off
tokens("attention", _plain, {A: 8, Q: 8, V: 8}, **_layers())
tokens("attention with heads by view", _viewed, {A: 8, Q: 4, V: 4}, **_layers())
tokens("attention with packed heads", _packed, {A: 4}, qkv=linear(8, 24))
tokens("fused attention, scale given", _wide_heads, {A: 8, Q: 4, V: 4}, **_layers())
tokens("fused attention, scale computed", _scale_of_tokens, {A: 8, Q: 4, V: 4}, **_layers())
tokens("fused attention by keyword", _by_keyword, {A: 8, Q: 8, V: 6}, out=6, **_layers(value=6))
tokens("attention by einsum", _einsum, {A: 8, Q: 4, V: 4}, **_layers())
tokens("linear attention", _linear_attention, {A: 8, Q: 8, V: 6}, out=6, **_layers(value=6))
tokens("attention among channels", _channel_attention, {A: 8, Q: 8, "k.weight": 8}, **_layers())
tokens("learned queries", _learned, {A: 8, "k.weight": 8, V: 8}, p=free(7, 8), k=linear(8, 8), v=linear(8, 8))
tokens("two parameters multiplied", lambda s, y: y * (s.p @ s.w), {"p": 6, "w": 8}, p=free(1, 6), w=free(6, 8))
tokens("learned queries, fused", _learned_fused, {A: 8, "p": 8, V: 8}, p=free(1, 7, 8), k=linear(8, 8), v=linear(8, 8))
tokens("keys that are values, fused", _one_for_two, {A: 8, "p": 8}, p=free(1, 7, 8), k=linear(8, 8))
tokens("relative positions beside keys", _relative, {A: 8, Q: 8, V: 8}, fixed=True, table=free(5, 8), **_layers())
tokens("a table per channel of queries and keys", _rotary, {A: 8, Q: 2}, out=16, **_layers(16, 16))
tokens("product over some channels", _half, {A: 8, Q: 4, f"{Q}#2": 4, "k.weight": 4}, **_layers())
tokens("two products in one call", _two_in_one, {A: 8, Q: 8, V: 8}, **_layers(), u=linear(8, 8))
net("gram matrix", _gram, (torch.zeros(2, 5, 3),), None, {A: 8}, a=linear(3, 8), head=linear(5, 4))
tokens("product and sum", lambda s, y: (s.q(y) * s.k(y)).sum(-1, keepdim=True) * s.v(y),
       {A: 8, Q: 8, V: 8}, **_layers())
tokens("products of matrices", lambda s, y: torch.mm(y[0], y[1].mT) @ y + y[1].mm(y[0].mT) @ y, {A: 8}, fixed=True)
tokens("a matrix and a vector", lambda s, y: (torch.mv(y[0], y[1, 0]) + y[1].mv(y[0, 1]))[None, :, None] * y, {A: 8},
       fixed=True)
tokens("products of vectors", lambda s, y: (torch.dot(y[0, 0], y[1, 0]) + y[0, 1].dot(y[0, 2])) * y, {A: 8}, fixed=True)
tokens("inner products", lambda s, y: (torch.inner(y, y[0, 0]) + y.inner(y[1, 1]))[..., None] * y, {A: 8}, fixed=True)
tokens("product over a named axis", lambda s, y: torch.tensordot(y, y[0, 0], dims=([2], [0]))[..., None] * y, {A: 8},
       fixed=True)
tokens("product of two maps of vectors", lambda s, y: torch.linalg.vecdot(y, y.relu())[..., None] * y, {A: 8})
tokens("product of an expanded column", lambda s, y: torch.mm(s.w.expand(6, 8), y[0].T).T[None], {A: 8, "w": 6}, out=6,
       fixed=True, w=free(6, 1))
tokens("product of an expanded row", lambda s, y: y * torch.mm(s.w.expand(8, 8), y[0].T).T, {A: 8}, fixed=True,
       w=free(1, 8))
tokens("two channels read by positions", lambda s, y: y @ s.w.view(2, 4), {"w": 4}, width=2, out=4, w=free(8),
       frozen="read by a weight without channels there")
