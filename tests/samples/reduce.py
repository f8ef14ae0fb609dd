"""Averages, extremes, sums and softmax, over channels and over other axes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .table import A, B, conv, image, linear, tokens


def _spatial_gate(s, y):
    return y * s.g(torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)).sigmoid()


def _spatial_gate_by_max(s, y):
    return y * s.g(torch.cat([y.mean(1, keepdim=True), y.max(1, keepdim=True)[0]], 1)).sigmoid()


def _over_space(s, y):
    gate = y.sum((2, 3), keepdim=True) + y.std((2, 3), keepdim=True) + y.norm(dim=(2, 3), keepdim=True)
    return y * (gate + y.max(2, keepdim=True)[0] + y.logsumexp(3, keepdim=True)).sigmoid()


def _variance(unbiased):
    return lambda s, y: y * y.var(1, keepdim=True, unbiased=unbiased) + torch.var_mean(y, (2, 3), keepdim=True)[1]


# fmt: off
image("mean over channels", lambda s, y: y * y.mean(1, keepdim=True), {A: 8, B: 6})
image("mean over all", lambda s, y: y * y.mean((1, 2, 3), keepdim=True), {A: 8, B: 6})
image("mean of everything", lambda s, y: y * y.mean(), {A: 8, B: 6}, fixed=True)
image("mean over some channels", lambda s, y: y * y[:, :4].mean(1, keepdim=True), {A: 4, f"{A}#2": 4, B: 6})
image("mean over a cat", lambda s, y: s.c(y) * torch.cat([y, s.c(y)], 1).mean(1, keepdim=True),
      {A: 8, "c.weight": 4, B: 6},
      out=4, c=conv(8, 4))
image("mean with a constant", lambda s, y: y * torch.cat([y, s.c(y)], 1).mean(1, keepdim=True), {B: 6}, c=conv(8, 1),
      frozen="mean over channels together with frozen channels")
image("mean over uneven repeats", lambda s, y: y * torch.cat([y, y[:, :4]], 1).mean(1, keepdim=True),
      {A: 4, f"{A}#2": 4, B: 6})
image("variance over channels", _variance(False), {A: 8, B: 6})
image("unbiased variance over channels", _variance(True), {B: 6}, frozen="unbiased variance over channels")
image("spatial gate", _spatial_gate, {A: 8, B: 6}, g=conv(2, 1, 3))
image("spatial gate by max", _spatial_gate_by_max, {B: 6}, g=conv(2, 1, 3), frozen="max over channels")
image("over space", _over_space, {A: 8, B: 6})
image("sum over channels", lambda s, y: y * y.sum(1, keepdim=True), {B: 6}, frozen="sum over channels")
image("unit length over channels", lambda s, y: F.normalize(y, dim=1), {B: 6}, frozen="norm over channels")
image("unit length over space", lambda s, y: F.normalize(y.flatten(2), dim=2).view(y.shape), {A: 8, B: 6})
image("softmax over channels", lambda s, y: y.softmax(1), {B: 6}, frozen="softmax over channels")
image("softmax over space", lambda s, y: y.flatten(2).softmax(2).view(y.shape), {A: 8, B: 6})
image("cumulative sum over channels", lambda s, y: y.cumsum(1), {B: 6}, frozen="cumsum over channels")
image("cumulative sum over space", lambda s, y: y.cumsum(2), {A: 8, B: 6})
tokens("sorted along tokens", lambda s, y: y.sort(1)[0] + y.topk(5, dim=1)[0], {A: 8}, fixed=True)
tokens("sorted along channels", lambda s, y: s.c(y.sort(-1)[0]), {"c.weight": 6}, out=6, c=linear(8, 6),
       frozen="sort over channels")
