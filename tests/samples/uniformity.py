"""Axes along which all numbers are equal, of expanded and of new tensors: they take the width of what they meet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .table import A, B, conv, free, image, linear, tokens

M_IN = "m.weight_ih_l0"


def _gate(op):
    """``op`` on a map of one channel, which multiplies the channels of y."""
    return lambda s, y: y * op(s.g(y), y)


def _two_widths(s, y):
    """One expanded map meets two layers: their channels become one group."""
    e = s.g(y).expand(-1, 8, -1, -1)
    return torch.cat([y * e, s.c(y) + e], 1)


def _new(make):
    """``make`` makes a tensor of one number from sizes that are read."""
    return lambda s, y: y + make(y, (y.shape[0], 8, y.shape[2], 1))


def _summed(s, y):
    e = s.g(y).expand(-1, 8, -1, -1)
    return e.sum(1, keepdim=True) + y * e  # before it meets channels


def _state(s, y):
    return s.m(y, torch.zeros(1, y.shape[0], 6, dtype=y.dtype))[0]


def _both_states(s, y):
    h = y.new_zeros(1, y.shape[0], 6)
    return s.m(y, (h, torch.ones(1, y.shape[0], 6, dtype=y.dtype)))[0]


def _unrolled(s, y):
    """A cell of one's own, step by step."""
    h = torch.zeros(y.shape[0], 6, dtype=y.dtype)
    for step in range(5):
        h = (s.u(y[:, step]) + s.w(h)).tanh()
    return h[:, None]


def _kept_tokens(repeat):
    """The tokens that a score picks, in all channels (masked autoencoders)."""

    def forward(s, y):
        order = y.mean(-1).argsort(1)[:, :3]
        return torch.gather(y, 1, repeat(order[..., None], y))

    return forward


def _evolved(s, y):
    """A group norm by hand, whose deviation is expanded within its group (EvoNorm)."""
    n, c, h, w = y.shape
    x = y.view(n, 2, c // 2, h, w)
    deviation = (x.var((2, 3, 4), unbiased=False, keepdim=True) + 1e-5).sqrt()
    return y * torch.sigmoid(y) / deviation.expand(n, 2, c // 2, h, w).reshape(n, c, h, w)


def _filled(s, y):
    out = torch.zeros(y.shape, dtype=y.dtype)
    out[:, :4] = 1
    return out + y


def _put_into_halves(s, y):
    """Functions that put what they return into views of one tensor, from which it is read."""
    both = y.new_zeros(y.shape[0], 16, *y.shape[2:])
    torch.gather(y.detach(), 2, torch.zeros_like(y, dtype=torch.long), out=both[:, :8])
    torch.index_select(y.detach(), 2, torch.arange(y.shape[2]), out=both[:, 8:])
    return both


def _halves(make):
    """Two layers write into the halves of a new tensor."""

    def forward(s, y):
        both = make(y)
        both[:, :8], both[:, 8:] = y, s.c(y)
        return both

    return forward


def _written_by_one(s, y):
    """One map in half of the channels, zeros in the others: those of y meet different numbers."""
    out = torch.zeros(y.shape, dtype=y.dtype)
    out[:, 4:] = s.g(y)
    return out + y


def _added_to_zeros(s, y):
    """Sums of tokens by an index, the same in all channels (a mixture of experts)."""
    at = s.c(y).argsort(1).expand(-1, -1, y.shape[-1])
    return y.new_zeros(y.shape[0], y.shape[1], 8).scatter_add_(1, at, y)


def _beside(op):
    def run(s, y):
        g = s.g(y).expand(-1, 8, -1, -1)
        return op(g) + y * g  # before it meets channels

    return run


def _repeated_in_front(s, y):
    every = y.mean(1).flatten(1).repeat(1, 1, 8)
    return (y.flatten(1) * every)[0].view(y.shape)


G = {"g": conv(8, 1)}


def _product_of_positions(s, y):
    e = s.e.expand(8, 4)
    return s.c(y * e[:, 0] + (y.sum(2) @ e).sum(1)[:, None, None])


def _alike(s, y):
    e = y.mean(2).expand(8, -1, -1)
    return y * torch.bmm(e, e.mT).sigmoid()[:, 0, 0]


def _met_and(op):
    def forward(s, y):
        e = y.mean(2, keepdim=True).expand(-1, -1, 8)
        return s.c(y * e + op(e, y))

    return forward


def _by_type(s, y):
    size = y.shape
    kind = type(y) if y.shape[2] > 4 else None
    z = torch.Tensor(*size).zero_() + torch.Tensor(size).fill_(2.0) + kind(size[0], 8, *size[2:]).zero_()
    return y + (z * torch.Tensor([size[2], 1.0]).sum() * torch.Tensor(size[0]).fill_(1.0)[:, None, None, None]).to(y)


# fmt: off
image("map expanded like another", _gate(lambda g, y: g.expand_as(y)), {A: 8, B: 6}, **G)
image("map expanded, then squashed", _gate(lambda g, y: torch.sigmoid(g.expand(-1, 8, -1, -1)) + 1), {A: 8, B: 6}, **G)
image("map expanded to read sizes", _gate(lambda g, y: g.expand(*y.shape)), {A: 8, B: 6}, **G)
image("map broadcast to a shape", _gate(lambda g, y: torch.broadcast_to(g, y.shape)), {A: 8, B: 6}, **G)
image("map broadcast with channels", lambda s, y: s.c(torch.broadcast_tensors(y, s.g(y))[1]) + y, {A: 8, B: 6},
      c=conv(8, 8), **G)
image("channels broadcast with a number", lambda s, y: torch.broadcast_tensors(y, y.new_ones(1))[0], {A: 8, B: 6})
image("channels broadcast with others", lambda s, y: s.c(torch.ops.aten.broadcast_tensors([y, s.d(y)[:1]])[0]),
      {A: 8, "c.weight": 8, B: 6}, c=conv(8, 8), d=conv(8, 8))
image("map repeated", _gate(lambda g, y: g.repeat(1, y.shape[1], 1, 1).clone()), {A: 8, B: 6}, **G)
image("map repeated by a literal", _gate(lambda g, y: g.relu().repeat((1, 8, 1, 1))), {A: 8, B: 6}, **G)
image("map tiled", _gate(lambda g, y: torch.tile(g.relu(), (8, 1, 1)) + g.tile(1, 8, 1, 1)), {A: 8, B: 6}, **G)
image("map interleaved", _gate(lambda g, y: g.relu().repeat_interleave(y.shape[1], dim=1)), {A: 8, B: 6}, **G)
image("number interleaved", _gate(lambda g, y: torch.repeat_interleave(g.mean(), 8)[:, None, None]), {A: 8, B: 6}, **G)
tokens("rows interleaved", lambda s, y: y * s.c(y).mean(1).repeat_interleave(4, 1)[:, None], {A: 2}, c=linear(8, 2))
image("map expanded, repeated once", _gate(lambda g, y: g.expand(-1, 8, -1, -1).repeat(1, 1, 1, 1)), {A: 8, B: 6}, **G)
image("map expanded and repeated", _gate(lambda g, y: g.expand(-1, 4, -1, -1).repeat(1, 2, 1, 1)), {B: 6}, **G,
      frozen="meets positions that carry no channels")
image("map expanded and permuted", _gate(lambda g, y: g.permute(0, 2, 3, 1).expand(-1, -1, -1, 8).permute(0, 3, 1, 2)),
      {A: 8, B: 6}, **G)
image("one map for two widths", _two_widths, {A: 8, B: 6}, out=16, c=conv(8, 8), **G)
image("expanded map, summed", _summed, {B: 6}, frozen="sum of an axis that was expanded", **G)
image("expanded map, repeated", _beside(lambda g: g.repeat(1, 2, 1, 1).amax(1, keepdim=True)), {B: 6}, **G,
      frozen="an expanded axis is repeated")
image("expanded map, parted", _beside(lambda g: g.unflatten(1, (2, 4)).amax((1, 2))[:, None]), {B: 6}, **G,
      frozen="an expanded axis is viewed otherwise")
image("positions repeated behind new axes", _repeated_in_front, {A: 8, B: 6})
image("expanded map, flattened", lambda s, y: y * s.f(s.g(y).expand_as(y).flatten(1))[..., None, None], {A: 8, B: 6},
      fixed=True, f=linear(512, 1), frozen="reads positions that carry no channels", **G)
image("expanded map, read", lambda s, y: s.c(s.g(y).expand(-1, 8, -1, -1)) + y, {A: 8, B: 6}, c=conv(8, 8), **G)
image("zeros", _new(lambda y, size: torch.zeros(size, dtype=y.dtype)), {A: 8, B: 6})
image("zeros by several numbers", _new(lambda y, size: torch.zeros(*size, dtype=y.dtype)), {A: 8, B: 6})
image("ones", _new(lambda y, size: torch.ones(size, dtype=y.dtype)), {A: 8, B: 6})
image("full", _new(lambda y, size: torch.full(size, 0.5, dtype=y.dtype)), {A: 8, B: 6})
image("new zeros", _new(lambda y, size: y.new_zeros(size)), {A: 8, B: 6})
image("new ones", _new(lambda y, size: y.new_ones(*size)), {A: 8, B: 6})
image("new and full", _new(lambda y, size: y.new_full(size, 0.5)), {A: 8, B: 6})
image("new by its older name", _new(lambda y, size: y.new(y.shape).fill_(0.5) + y.new(*size).zero_()), {A: 8, B: 6})
image("new of a tensor", lambda s, y: y.new(y) * 2, {A: 8, B: 6})
image("new of numbers", lambda s, y: y * y.new([0.5, y.shape[2]]).sum(), {A: 8, B: 6})
image("tensors by their type", _by_type, {A: 8, B: 6})
image("zeros that are filled", _filled, {A: 4, B: 6}, frozen="changed in place")
image("put into given halves", _put_into_halves, {A: 8, B: 6}, out=16)
image("written into halves of zeros", _halves(lambda y: y.new_zeros(y.shape[0], 16, *y.shape[2:])),
      {A: 8, "c.weight": 8, B: 6}, out=16, c=conv(8, 8))
image("written into halves of a new tensor",
      _halves(lambda y: torch.empty(y.shape[0], 16, *y.shape[2:], dtype=y.dtype)), {A: 8, "c.weight": 8, B: 6}, out=16,
      c=conv(8, 8))
image("half of what was written", lambda s, y: _halves(lambda y: y.new_zeros(2, 16, 8, 8))(s, y)[:, 8:],
      {A: 8, "c.weight": 8, B: 6}, fixed=True, c=conv(8, 8))
image("zeros written to by one map", _written_by_one, {A: 4, B: 6}, frozen="changed in place", **G)
image("out of a function", lambda s, y: torch.add(y, s.c(y), out=torch.empty_like(y)), {A: 8, B: 6}, c=conv(8, 8))
tokens("zeros added to by an index", _added_to_zeros, {A: 8}, c=linear(8, 1))
tokens("recurrent, a first state of zeros", _state, {A: 8, M_IN: 6}, out=6, m=nn.GRU(8, 6, batch_first=True))
tokens("recurrent, a first state by its older name", lambda s, y: s.m(
       y, next(s.parameters()).new(1, y.size(0), 6).zero_())[0], {A: 8, M_IN: 6}, out=6,
       m=nn.GRU(8, 6, batch_first=True))
tokens("recurrent, two first states", _both_states, {A: 8, M_IN: 6}, out=6, m=nn.LSTM(8, 6, batch_first=True))
tokens("cell by hand", _unrolled, {A: 8, "u.weight": 6}, out=6, fixed=True, u=linear(8, 6), w=linear(6, 6))
tokens("tokens kept, index repeated", _kept_tokens(lambda at, y: at.repeat(1, 1, 8)), {A: 8})
tokens("tokens kept, index expanded", _kept_tokens(lambda at, y: at.expand(-1, -1, y.shape[-1])), {A: 8})
image("normalised by groups by hand", _evolved, {A: 4, B: 6})
image("map multiplied with itself", lambda s, y: y + torch.einsum("nchw,ndhw->ncd", s.g(y).expand_as(y), y).mean(
      (1, 2))[:, None, None, None], {A: 8, B: 6}, **G)
tokens("vector times an expanded one", lambda s, y: y * torch.dot(s.w.expand(8), y[0, 0]), {A: 8}, fixed=True,
       w=free(1))
tokens("products that are alike for all channels", _alike, {A: 8}, fixed=True)
tokens("product with an expanded row", lambda s, y: y @ s.w.expand(8, 8), {A: 8, "w": 8}, w=free(1, 8))
tokens("product with an expanded column", lambda s, y: y @ s.w.expand(8, 8), {A: 8}, w=free(8, 1))
tokens("product of groups with expanded columns", lambda s, y: F.grouped_mm(s.w.expand(2, 6, 8), y.flatten(0, 1).T,
       offs=(torch.arange(1, 3) * 5).int()).T[None], {"w": 6}, out=6, fixed=True, w=free(2, 6, 1),
       frozen="a product of activations inside")
tokens("product with a repeated row", lambda s, y: y @ s.w.repeat(8, 1), {A: 8, "w": 8}, w=free(1, 8))
tokens("linear with an expanded weight", lambda s, y: torch.einsum("nti,oi->nto", y, s.w.expand(8, 8)),
       {A: 8, "w": 8}, w=free(8, 1))
tokens("tokens without channels, repeated", lambda s, y: y.repeat(1, 2, 1) * y.mean(2, keepdim=True).repeat(1, 2, 1),
       {A: 8})
tokens("expanded tokens, joined", lambda s, y: torch.cat([y.new_ones(1, 1, 1).expand_as(y), y.mean(2, keepdim=True)
       .expand(-1, -1, 8)], 1)[:, :y.shape[1]] + y, {A: 8})
for name, width, op in (
    ("repeated", 8, lambda e, y: e.repeat(1, 1, 2).sum(2, keepdim=True)),
    ("viewed otherwise", 4, lambda e, y: e.unflatten(2, (2, 4)).sum((2, 3))[..., None]),
):
    tokens(f"an expanded axis that met channels is {name}", _met_and(op), {A: width, "c.weight": 6}, out=6,
           c=linear(8, 6))
tokens("expanded operand of a product of positions", _product_of_positions, {"c.weight": 6}, out=6, length=8,
       fixed=True, c=linear(8, 6), e=free(1, 4), frozen="a product over an axis that was expanded")
