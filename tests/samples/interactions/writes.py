"""Slices of channels that are written to, tables that are resized, and queries that are learned."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from ..table import A, B, conv, free, image, linear, net, tokens


def _partial(s, y):
    """A convolution over the first channels, written back."""
    y = y.clone()
    y[:, :4] = s.p(y[:, :4])
    return y


def _shifted(s, y):
    """The first channels come from the left, the next ones from the right."""
    out = torch.zeros_like(y)
    out[:, :2, :, 1:] = y[:, :2, :, :-1]
    out[:, 2:4, :, :-1] = y[:, 2:4, :, 1:]
    out[:, 4:] = y[:, 4:]
    return out


def _cleared(s, y):
    y = y.clone()
    y[:, 5:] = 0
    return y


def _stepped(s, y):
    y = y.clone()
    y[:, ::2] = y[:, 1::2]
    return y


def _interleaved(s, y):
    z = y.new_zeros(y.shape[0], 16, *y.shape[2:])
    z[:, 0::2] = y
    z[:, 1::2, ...] = s.p(y)
    return z


def _relative(s, y):
    """Scores of queries and a table of offsets, stretched to the length of the input."""
    table = F.interpolate(s.t.t()[None], size=2 * y.shape[1] - 1, mode="linear")[0].t()
    at = torch.arange(y.shape[1])
    chosen = table[(at[:, None] - at[None, :]) + y.shape[1] - 1]
    return torch.einsum("bqc,qkc->bqk", s.q(y), chosen).softmax(-1) @ s.v(y)


def _pooled(s, x):
    """Attention of one learned query over all tokens."""
    y = s.a(x)
    return s.head(s.m(s.probe.repeat(y.shape[0], 1, 1), y, y)[0][:, 0])


def _embedded(s, y):
    table = F.interpolate(s.t, size=y.shape[2:], mode="bicubic")
    return y + table


def _filled_by_channels(s, y):
    z = s.c(y).clone()
    z[:, (9 * y.abs().mean((0, 1))).long() % 5] = 0.5
    return z


# fmt: off
image("slice written back", _partial, {A: 4, "a.weight#2": 4, B: 6}, p=conv(4, 4, 3))
image("channels shifted along space", _shifted, {A: 2, "a.weight#2": 2, "a.weight#3": 4, B: 6})
image("channels cleared", _cleared, {A: 5, "a.weight#2": 3, B: 6})
image("channels interleaved", _interleaved, {A: 8, "p.weight": 8, B: 6}, out=16, p=conv(8, 8))
image("slice with a step written to", _stepped, {A: 4, B: 6})
image("functional group norm, a channel each", lambda s, y: F.group_norm(y, 8, s.w, s.v), {"w": 8, B: 6}, w=free(8),
      v=free(8))
image("group norm of channels, by keyword", lambda s, y: F.group_norm(y, num_groups=8), {A: 8, B: 6})
image("group norm of channels, torch's own", lambda s, y: torch.group_norm(y, 8, s.w, s.v), {"w": 8, B: 6}, w=free(8),
      v=free(8))
image("positions stretched", _embedded, {"t": 8, B: 6}, t=free(1, 8, 5, 5))
tokens("offsets stretched", _relative, {A: 8, "q.weight": 8, "v.weight": 6}, out=6, t=free(7, 8), q=linear(8, 8),
       v=linear(8, 6))
net("learned query", _pooled, (torch.zeros(2, 5, 3),), (torch.zeros(3, 7, 3),),
    {"probe": 8, "m.in_proj_weight": 4, "m.in_proj_weight#2": 4, "m.out_proj.weight": 8},
    probe=free(1, 1, 8), a=linear(3, 8), m=nn.MultiheadAttention(8, 2, batch_first=True), head=linear(8, 4))
tokens("weight norm along the kernel", lambda s, y: s.c(y.mT).mT, {A: 2, "c.bias": 2}, out=8,
       c=parametrizations.weight_norm(nn.Conv1d(8, 8, 3, padding=1, groups=4), dim=2))
tokens("channels put among positions", lambda s, y: s.c(y) * torch.slice_scatter(y.mean(2), y[:, 0, :3], 1, 1, 4)[
       ..., None], {"c.weight": 6}, out=6, fixed=True, c=linear(8, 6), frozen="meets positions that carry no channels")
tokens("filled where channels say", _filled_by_channels, {"c.weight": 6}, out=6, fixed=True, c=linear(8, 6),
       frozen="index picks")
tokens("reduced where channels say", lambda s, y: y.index_reduce(1, (9 * s.c(y).abs().mean((0, 1))).long() % 8, y,
       "amax"), {A: 8}, length=8, fixed=True, c=linear(8, 8), frozen="index picks")
