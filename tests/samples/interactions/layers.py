"""Layers that stay whole although more than one thing happens inside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function, register_notrace_module
from torch import nn

from ..table import A, B, conv, free, image, linear, net, tokens

IN = "in_proj_weight"
M, M_IN = f"m.{IN}", "m.weight_ih_l0"


@register_notrace_module
class _Mixer(nn.Module):
    """Depthwise, then normalised by groups, then pointwise."""

    def __init__(self, width):
        super().__init__()
        self.d, self.n, self.p = conv(width, width, 3, groups=width), nn.GroupNorm(2, width), conv(width, width)

    def forward(self, x):
        return self.p(self.n(self.d(x)))


@register_notrace_module
class _Literal(nn.Module):
    """A width in the source code."""

    def forward(self, x):
        n, _, h, w = x.shape
        return x.flatten(2).transpose(1, 2).reshape(n, h, w, 8).permute(0, 3, 1, 2)


class _Norm(nn.LayerNorm):
    """The last axis, by a forward of its own."""

    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, None, None, self.eps)


class _ImageNorm(nn.LayerNorm):
    """Axis 1 of an image."""

    def forward(self, x):
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, None, None, self.eps).permute(0, 3, 1, 2)


@register_notrace_function
def resized(table, height, width):
    """Positions [16, c] of a square image for any other."""
    square = table.reshape(1, 4, 4, table.shape[-1]).permute(0, 3, 1, 2)
    return F.interpolate(square, (height, width), mode="bilinear")


class _Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = free(16, 8)

    def forward(self, x):
        return x + resized(self.table, *x.shape[2:])


@register_notrace_function
def related(x, table):
    """One number for each token, from the first rows of a table [k, c]."""
    return torch.einsum("nlc,kc->nlk", x, table[x.new_ones(5).cumsum(0).long() - 1]).sum(-1, keepdim=True)


@register_notrace_module
class _Gain(nn.Module):
    """A factor that its width determines; the shapes alone do not show it."""

    def forward(self, x):
        return x * torch.tensor(x.shape[1], dtype=x.dtype)


@register_notrace_module
class _Whole(nn.Module):
    """A function that is kept whole."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _first(x):
    """Scale by the mean of as many rows as half of the width."""
    return x * x[:, :, : x.shape[1] // 2].mean((2, 3), keepdim=True)


class _ScaledNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) / self.num_features


class _ActiveNorm(nn.GroupNorm):
    def forward(self, x):
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps).relu()


def _hooked(layer, hook):
    layer.register_forward_hook(lambda layer, given, out: hook(layer, out))
    return layer


def _attention(**options):
    return lambda s, y: s.m(y, y, y, **options)[0]


def _cells(s, y):
    first = second = None
    for t in range(5):
        first = s.m(y[:, t], first)
        second = s.n(first[0], second)
    return second


# fmt: off
image("kept whole, layers inside", lambda s, y: s.m(y), {A: 4, "m.p.weight": 8, B: 6}, m=_Mixer(8))
image("kept whole, a width inside", lambda s, y: s.m(y), {B: 6}, m=_Literal(), frozen="kept whole")
image("kept whole, scaled by its width", lambda s, y: s.m(y), {B: 6}, m=_Gain(), frozen="knows its own width")
for what, function in {
    "a shift": lambda x: x.roll(x.shape[1] // 2, 2),
    "a start": lambda x: x.narrow(2, x.shape[1] // 4, 3),
    "a place": lambda x: x + x.select(2, x.shape[1] // 4).unsqueeze(2),
    "an axis": lambda x: x.flip(2 if x.shape[1] > 4 else 3),
    "a count": lambda x: x * torch.ones(x.shape[1], dtype=x.dtype).sum(),
    "a size": lambda x: x + x[:, :, :1].expand(-1, -1, x.shape[1], -1).sum(2, keepdim=True),
    "a legacy tensor": lambda x: x * torch.Tensor([x.shape[1]]).to(x),
    "a new tensor": lambda x: x * x.new_tensor(float(x.shape[1])),
    "a number of groups": lambda x: F.group_norm(x, x.shape[1] // 4),
    "whether it is odd": lambda x: x * 3 if x.shape[1] % 2 else x * 2,
}.items():
    image(f"kept whole, its width is {what}", lambda s, y: s.m(y), {B: 6}, m=_Whole(function),
          frozen="knows its own width")
image("group norm of its own, a group for each channel", lambda s, y: s.m(y), {A: 8, B: 6}, m=_ActiveNorm(8, 8))
image("group norm of its own, two channels in a group", lambda s, y: s.m(y), {A: 2, B: 6}, m=_ActiveNorm(4, 8))
tokens("a table that a function kept whole reads by columns", lambda s, y: y + related(y, s.t), {A: 8}, t=free(5, 8))
for what, by_width in {
    "rolled": lambda x: x + x.roll(x.shape[1] // 4, 2),
    "cut": _first,
    "summed": lambda x: x * torch.ones(x.shape[1], dtype=x.dtype).sum(),
    "of the largest": lambda x: x - x.flatten(2).topk(x.shape[1] // 4, 2)[0][:, :, -1:, None],
    "normalised by groups": lambda x: F.group_norm(x, x.shape[1] // 4),
}.items():
    image(f"kept whole, {what} by its width", lambda s, y: s.m(y), {B: 6}, m=_Whole(by_width),
          frozen="knows its own width")
image("norm that divides by its width", lambda s, y: s.m(y), {B: 6}, m=_ScaledNorm(8), frozen="knows its own width")
image("hook that reads a width", lambda s, y: s.c(y), {B: 6}, c=_hooked(conv(8, 8), lambda c, out: out / c.in_channels),
      frozen="knows its own width")
image("hook that decides by a width", lambda s, y: s.m(y), {B: 6},
      m=_hooked(nn.ReLU(), lambda _, out: out * 2 if out.shape[1] > 7 else out), frozen="knows its own width")
image("hook that scales", lambda s, y: s.c(y), {A: 4, "c.weight": 4, B: 6},
      c=_hooked(conv(8, 8, groups=2), lambda _, out: out * 2))
image("positions by a function that is kept whole", lambda s, y: s.m(y), {A: 8, B: 6}, m=_Positions())
image("norm of an image without weights", lambda s, y: s.m(y), {A: 8, B: 6}, m=_ImageNorm(8, elementwise_affine=False))
tokens("norm without weights", lambda s, y: s.m(y), {A: 8}, m=_Norm(8, elementwise_affine=False))
tokens("norm of a mean without weights", lambda s, y: s.d(s.m(s.d(y).mean(1))), {A: 8}, out=8, d=linear(8, 8),
       m=_Norm(8, elementwise_affine=False))
image("flatten as a layer", lambda s, y: s.f(y)[:, :, None, None], {A: 8, B: 6, "f.1.weight": 5}, out=5, fixed=True,
      f=nn.Sequential(nn.Flatten(), linear(512, 5)))
image("local response", lambda s, y: s.m(y), {B: 6}, m=nn.LocalResponseNorm(3), frozen="kept whole")
image("bilinear layer of one tensor", lambda s, y: s.m(y.mean((2, 3)), y.mean((2, 3)))[:, :, None, None],
      {A: 8, "m.weight": 5, B: 6}, out=5, m=nn.Bilinear(8, 8, 5))
tokens("attention as a layer", _attention(), {A: 8, M: 4, f"{M}#2": 4, "m.out_proj.weight": 8},
       m=nn.MultiheadAttention(8, 2, batch_first=True))
tokens("attention as a layer, fused", _attention(need_weights=False),
       {A: 8, M: 4, f"{M}#2": 4, "m.out_proj.weight": 8}, m=nn.MultiheadAttention(8, 2, batch_first=True))
tokens("attention as a layer, keys appended", lambda s, y: s.d(s.m(y, y, y)[0]), {"d.weight": 6}, out=6, d=linear(8, 6),
       m=nn.MultiheadAttention(8, 2, add_bias_kv=True), frozen="kept whole and knows its own width")
tokens("attention between widths", lambda s, y: s.m(y, s.k(y), s.v(y))[0],
       {A: 8, "k.weight": 6, "v.weight": 9, "m.q_proj_weight": 4, "m.v_proj_weight": 4, "m.out_proj.weight": 8},
       k=linear(8, 6), v=linear(8, 9), m=nn.MultiheadAttention(8, 2, kdim=6, vdim=9, batch_first=True))
tokens("recurrent", lambda s, y: s.m(y)[0], {A: 8, M_IN: 6}, out=6, m=nn.LSTM(8, 6, batch_first=True))
tokens("recurrent, both directions, three layers", lambda s, y: s.m(y)[0], {A: 8, M_IN: 6}, out=12,
       m=nn.LSTM(8, 6, 3, bidirectional=True))
tokens("recurrent, projected", lambda s, y: s.m(y)[0], {A: 8, M_IN: 9, "m.weight_hr_l0": 6}, out=6,
       m=nn.LSTM(8, 9, 2, proj_size=6))
tokens("gated recurrent", lambda s, y: s.m(y)[0], {A: 8, M_IN: 6}, out=6, m=nn.GRU(8, 6, 2, bias=False))
tokens("gated recurrent, two wide", lambda s, y: s.m(y)[0], {A: 8, M_IN: 2}, out=2, m=nn.GRU(8, 2))
tokens("plain recurrent", lambda s, y: s.m(y)[0], {A: 8, M_IN: 6}, out=12, m=nn.RNN(8, 6, bidirectional=True))
tokens("recurrent, last state only", lambda s, y: s.m(y)[1][0].mean(0), {A: 8, M_IN: 6}, out=6, m=nn.LSTM(8, 6, 2))
tokens("recurrent, state of another", lambda s, y: s.n(y, s.m(y)[1])[0], {A: 8, M_IN: 6}, out=6, m=nn.GRU(8, 6),
       n=nn.GRU(8, 6))
tokens("recurrent, a learned first state", lambda s, y: s.m(y, s.h.expand(-1, y.shape[1], -1))[0], {"h": 6, A: 8},
       out=6, m=nn.GRU(8, 6), h=free(1, 1, 6))
tokens("recurrent, one step", lambda s, y: s.m(y[:, :1])[0], {A: 8, M_IN: 6}, out=6,
       m=nn.LSTM(8, 6, batch_first=True))
tokens("recurrent cells", _cells, {A: 8, "m.weight_ih": 6, "n.weight_ih": 6}, out=6, fixed=True,
       m=nn.LSTMCell(8, 6), n=nn.GRUCell(6, 6))
tokens("recurrent cells that begin with zeros", lambda s, y: (s.m(y[:, 0]) + s.n(y[:, 1])[0])[:, None],
       {A: 8, "m.weight_ih": 6}, out=6, fixed=True, m=nn.RNNCell(8, 6), n=nn.LSTMCell(8, 6))
tokens("transformer layer", lambda s, y: s.m(y), {A: 8, f"m.self_attn.{IN}": 4, f"m.self_attn.{IN}#2": 4,
       "m.linear1.weight": 16}, m=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
tokens("whole sequence", lambda s, y: s.m(y), {A: 8, "m.0.weight": 6, "m.2.weight": 8},
       m=nn.Sequential(linear(8, 6), nn.GELU(), linear(6, 8)))
net("a layer called config", lambda s, x: s.head(s.config(x).mean((2, 3))), (torch.zeros(2, 3, 8, 8),),
    (torch.zeros(3, 3, 6, 9),), {"config.weight": 8}, config=conv(3, 8), head=linear(8, 4))
image("kept whole, a group norm with a group for each channel", lambda s, y: s.m(y), {B: 6},
      m=_Whole(lambda x: F.group_norm(x, 8)), frozen="kept whole")
image("kept whole, a squeeze of one sample", lambda s, y: s.m(y), {B: 6}, fixed=True,
      m=_Whole(lambda x: x.relu().squeeze(0)), frozen="a squeeze that depends on an input inside `m`")
