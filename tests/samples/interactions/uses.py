"""Weights used twice or never, several inputs, several outputs, and what cannot be both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..table import A, B, Net, conv, free, image, linear, net, tokens

IMAGES = (torch.zeros(2, 3, 8, 8), torch.zeros(2, 2, 8, 8))
OTHER = (torch.zeros(3, 3, 12, 10), torch.zeros(3, 2, 12, 10))


@dataclass
class _Answer:
    logits: torch.Tensor
    features: torch.Tensor


def _shared(first, second):
    second.weight = first.weight
    return {"c": first, "d": second}


def _head(s, y):
    return s.head(s.b(y).mean((2, 3)))


def _two_inputs(s, x, z):
    return _head(s, s.a(x) + s.c(z))


def _two_inputs_joined(s, x, z):
    return _head(s, s.a(torch.cat([x, z], 1)))


def _several_outputs(s, x):
    y = s.a(x)
    z = s.b(y.relu())
    return {"logits": s.head(z.mean((2, 3))), "maps": [z, (z.mean(1), None)]}


def _answer(s, x):
    y = s.a(x)
    return _Answer(_head(s, y), y)


def _tied_table(s, i):
    return F.linear(s.c(s.e(i)).relu(), s.e.weight)


def _experts_there_and_back(s, y):
    ends = (torch.arange(1, 3) * 5).int()
    inner = F.grouped_mm(y.flatten(0, 1), s.w, offs=ends) + s.v
    return s.c(F.grouped_mm(inner.relu(), s.w.mT, offs=ends).view(y.shape).relu())


def _head_of(table):
    layer = linear(*reversed(table.weight.shape))
    layer.weight = table.weight
    return layer


_TABLE = nn.Embedding(10, 8)

# fmt: off
image("one layer twice in a row", lambda s, y: s.c(s.c(y).relu()), {A: 8, B: 6}, c=conv(8, 8))
image("one layer on two inputs", lambda s, y: s.c(y) + s.c(s.d(y)), {A: 8, "c.weight": 8, B: 6}, c=conv(8, 8),
      d=conv(8, 8))
image("one weight in two layers", lambda s, y: s.c(y) * s.d(y), {A: 8, "c.weight": 8, B: 6},
      **_shared(conv(8, 8), conv(8, 8)))
image("one weight in two layers in a row", lambda s, y: s.d(s.c(y)), {A: 8, B: 6}, **_shared(conv(8, 8), conv(8, 8)))
image("layers in a row", lambda s, y: s.c(y), {A: 8, "c.0.weight": 5, "c.3.weight": 7, B: 6}, out=7,
      c=nn.Sequential(conv(8, 5), nn.BatchNorm2d(5), nn.ReLU(), conv(5, 7)))
image("never used", lambda s, y: y, {A: 8, B: 6}, c=conv(8, 5), p=free(8))
image("used without an effect", lambda s, y: y + 0 * s.c(y).mean((1, 2, 3), keepdim=True), {A: 8, "c.weight": 6, B: 6},
      c=conv(8, 6))
tokens("there and back", lambda s, y: s.c(F.linear(F.linear(y, s.w).relu(), s.w.t())),
       {"w": 6, "w#2": 8, "c.weight": 6}, out=6, w=free(6, 8), c=linear(8, 6))
tokens("there and back with a bias", lambda s, y: s.c(F.linear(F.linear(y, s.w).relu(), s.w.t(), s.v)),
       {"w": 6, "w#2": 8, "c.weight": 6}, out=6, w=free(6, 8), v=free(8), c=linear(8, 6))
image("there and back by kernels", lambda s, y: F.conv_transpose2d(F.conv2d(y, s.w).relu(), s.w, s.v),
      {"w": 6, "w#2": 8, B: 6}, w=free(6, 8, 3, 3), v=free(8))
tokens("experts there and back", _experts_there_and_back, {"c.weight": 5}, out=5, fixed=True, w=free(2, 8, 6),
       v=free(6), c=linear(8, 5), frozen="read by columns and used by rows")
net("two inputs", _two_inputs, IMAGES, OTHER, {A: 8, B: 6}, a=conv(3, 8), c=conv(2, 8), b=conv(8, 6), head=linear(6, 4))
net("two inputs joined", _two_inputs_joined, IMAGES, OTHER, {A: 8, B: 6}, a=conv(5, 8), b=conv(8, 6), head=linear(6, 4))
net("several outputs", _several_outputs, IMAGES[:1], OTHER[:1], {A: 8}, a=conv(3, 8), b=conv(8, 6), head=linear(6, 4),
    frozen="graph output")
net("outputs in a dataclass", _answer, IMAGES[:1], OTHER[:1], {B: 6}, a=conv(3, 8), b=conv(8, 6), head=linear(6, 4),
    frozen="graph output")
net("one network in another", lambda s, x: s.inner(s.a(x)).flatten(1), IMAGES[:1], None, {A: 8, "inner.c.weight": 5},
    a=conv(3, 8), inner=Net(lambda s, y: s.d(s.c(y)), c=conv(8, 5), d=conv(5, 2)))
net("table tied to the output", _tied_table, (torch.arange(10).view(2, 5),), (torch.zeros(3, 4,
    dtype=torch.long),),
    {"e.weight": 8, "c.0.weight": 6}, e=nn.Embedding(10, 8), c=nn.Sequential(linear(8, 6), nn.ReLU(), linear(6, 8)),
    frozen="rows of a table")
net("layer that shares a table", lambda s, i: s.d(s.c(s.e(i)).relu()),
    (torch.arange(10).view(2, 5),), (torch.zeros(3, 4, dtype=torch.long),),
    {"e.weight": 8, "c.0.weight": 6}, e=_TABLE, c=nn.Sequential(linear(8, 6), nn.ReLU(), linear(6, 8)),
    d=_head_of(_TABLE), frozen="rows of a table")
