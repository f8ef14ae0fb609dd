"""Buffers: a vector acts per channel, whatever its numbers, and so does a table that is only added to channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from ..table import A, B, free, image, linear, tokens


class Constants(nn.Module):
    """Buffers by name, in the state dict or not."""

    def __init__(self, persistent=True, **buffers):
        super().__init__()
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=persistent)


def _drawn(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5


def _frozen_norm(width):
    norm = FrozenBatchNorm2d(width)
    for buffer in norm.buffers():
        buffer.copy_(_drawn(*buffer.shape))
    return norm


def _frequencies(s, y):
    """Rotary embedding of positions that are counted: the angles are a table."""
    angles = torch.arange(y.shape[1], dtype=y.dtype)[:, None] * s.k.f
    return _turned(y, angles.cos(), angles.sin())


def _turned(y, cos, sin):
    one, other = y[..., :4], y[..., 4:]
    return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)


def _outer(s, y):
    return y + torch.arange(y.shape[1], dtype=y.dtype)[:, None] @ s.k.f[None]


def _splines(s, y):
    """A layer of splines: every channel has a row of knots, between which it is a line."""
    x, grid = y[..., None], s.k.grid
    inside = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(y.dtype)
    up = (x - grid[:, :-2]) / (grid[:, 1:-1] - grid[:, :-2]) * inside[..., :-1]
    down = (grid[:, 2:] - x) / (grid[:, 2:] - grid[:, 1:-1]) * inside[..., 1:]
    return F.linear((up + down).flatten(2), s.w.view(6, -1)) + F.linear(F.silu(y), s.v)


class _Knots(nn.Module):
    """Equal rows of knots as a parameter, which no training moves."""

    def __init__(self):
        super().__init__()
        self.grid = nn.Parameter(KNOTS.clone(), requires_grad=False)


def _steps(s, y):
    """A recurrent cell over two tokens, from one state for all samples."""
    state = s.k.h.expand(len(y), -1)
    for at in range(2):
        state = s.m(y[:, at], state)
    return state[:, None].expand(-1, y.shape[1], -1)


KNOTS = torch.linspace(-2, 2, 7).expand(8, -1)

# fmt: off
image("frozen norm", lambda s, y: s.n(y), {A: 8, B: 6}, n=_frozen_norm(8))
image("frozen norm as built", lambda s, y: s.n(y), {A: 8, B: 6}, n=FrozenBatchNorm2d(8))
image("fixed scale and bias", lambda s, y: y * s.k.w[None, :, None, None] + s.k.b, {A: 8, B: 6},
      k=Constants(w=_drawn(8), b=_drawn(8, 1, 1)))
image("fixed scale, expanded", lambda s, y: y * s.k.w.view(1, -1, 1, 1).expand_as(y), {A: 8, B: 6},
      k=Constants(w=_drawn(8)))
image("fixed scale of a computed one", lambda s, y: y * (s.k.w + 1e-5).rsqrt().mul(s.k.v)[:, None, None], {A: 8, B: 6},
      k=Constants(w=_drawn(8), v=_drawn(8)))
image("fixed scale along space", lambda s, y: y * s.k.w, {A: 8, B: 6}, fixed=True, k=Constants(w=_drawn(8)))
image("uniform table that no checkpoint changes", lambda s, y: y + s.k.w, {A: 8, B: 6}, fixed=True,
      k=Constants(persistent=False, w=torch.zeros(8, 8, 8)))
image("uniform table of a checkpoint", lambda s, y: y + s.k.w, {A: 8, B: 6}, fixed=True,
      k=Constants(w=torch.zeros(8, 8, 8)))
tokens("fixed positions", lambda s, y: s.k.p[:, : y.shape[1]] * s.w + y - s.k.p[0, :5], {A: 8}, fixed=True, w=free(1),
       k=Constants(p=_drawn(1, 9, 8)))
tokens("fixed positions that turn", lambda s, y: s.c(_turned(y, s.k.p.cos(), s.k.p)).relu(), {"c.weight": 6}, out=6,
       fixed=True, c=linear(8, 6), k=Constants(p=_drawn(5, 4)), frozen="meets positions that carry no channels")
tokens("fixed positions, added and multiplied", lambda s, y: s.c((y + s.k.p) * s.k.p).relu(), {"c.weight": 6}, out=6,
       fixed=True, c=linear(8, 6), k=Constants(p=_drawn(5, 8)), frozen="a buffer from which a table is computed")
tokens("frequencies times positions", lambda s, y: s.c(_frequencies(s, y)).relu(), {"c.weight": 6}, out=6,
       c=linear(8, 6), k=Constants(f=_drawn(4)), frozen="a buffer from which a table is computed")
tokens("product of frequencies and positions", lambda s, y: s.c(_outer(s, y)).relu(), {"c.weight": 6}, out=6,
       c=linear(8, 6), k=Constants(f=_drawn(8)), frozen="a buffer from which a table is computed")
tokens("splines with stored knots", _splines, {"w": 6}, out=6, w=free(6, 8, 5), v=free(6, 8),
       k=Constants(grid=KNOTS.clone()), frozen="a buffer from which a table is computed")
tokens("splines with knots of a parameter", _splines, {"w": 6, A: 8}, out=6, w=free(6, 8, 5), v=free(6, 8), k=_Knots())
tokens("a stored first state", lambda s, y: s.m(y, s.k.h.expand(-1, y.shape[1], -1).contiguous())[0],
       {A: 8, "m.weight_ih_l0": 6}, out=6, m=nn.GRU(8, 6), k=Constants(h=_drawn(1, 1, 6)))
tokens("a stored first state of a cell", _steps, {A: 8, "m.weight_ih": 6}, out=6, m=nn.GRUCell(8, 6),
       k=Constants(h=_drawn(6)))
tokens("a grid that a layer reads", lambda s, y: s.c(y) + s.d(s.k.g), {A: 8, "c.weight": 6}, out=6, c=linear(8, 6),
       d=linear(5, 6), k=Constants(g=_drawn(5)), frozen="a buffer from which a table is computed")
tokens("positions that a constant has", lambda s, y: y[:, torch.eye(y.shape[1]).triu().nonzero()[:, 1]], {A: 8})
