"""Pools and resampling: channels pass, space does not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .table import A, B, conv, image, linear, net

IN = {1: torch.zeros(2, 3, 9), 3: torch.zeros(2, 3, 5, 5, 5)}
OTHER = {1: torch.zeros(3, 3, 12), 3: torch.zeros(1, 3, 4, 5, 5)}


def _net(name, rank, pool):
    layer = {1: nn.Conv1d, 3: nn.Conv3d}[rank]

    def forward(s, x):
        return s.head(s.b(pool(s.a(x))).relu().flatten(2).mean(2))

    net(name, forward, (IN[rank],), (OTHER[rank],), {A: 8, B: 6}, a=layer(3, 8, 1), b=layer(8, 6, 1), head=linear(6, 4))


def _resampled(s, y):
    small = F.interpolate(y, scale_factor=0.5, mode="bilinear")
    return F.interpolate(small, size=y.shape[-2:], mode="nearest") + F.interpolate(y, y.shape[2:], mode="bicubic")


# fmt: off
image("max pool at places that are drawn", lambda s, y: y + 0 * s.p(y).mean(), {B: 6}, p=nn.FractionalMaxPool2d(2, 4),
      frozen="random numbers, one for each position")
image("max pool", lambda s, y: s.p(y), {A: 8, B: 6}, p=nn.MaxPool2d(2))
image("average pool", lambda s, y: F.avg_pool2d(y, 3, 2), {A: 8, B: 6})
image("adaptive pools", lambda s, y: F.adaptive_avg_pool2d(y, 2) + F.adaptive_max_pool2d(y, 2), {A: 8, B: 6})
image("pooled to one place in channels-last",
      lambda s, y: F.adaptive_avg_pool2d(y.contiguous(memory_format=torch.channels_last), 1), {A: 8, B: 6})
image("pooled to the size of another", lambda s, y: s.c(y) + F.adaptive_avg_pool2d(y, s.c(y).shape[-2:]), {A: 8, B: 6},
      c=conv(8, 8, 3, stride=2))
image("resampled", _resampled, {A: 8, B: 6})
image("padded by reflection", lambda s, y: s.p(F.pad(y, (1, 1, 1, 1), "replicate")), {A: 8, B: 6},
      p=nn.ReflectionPad2d(1))
image("pool over channels", lambda s, y: F.max_pool2d(y.permute(0, 2, 3, 1), (1, 2)).permute(0, 3, 1, 2), {B: 6}, out=4,
      frozen="treated as space")
_net("pools of a line", 1, lambda y: F.max_pool1d(y, 2) + F.avg_pool1d(y, 2) + F.adaptive_avg_pool1d(y,
     y.shape[2] // 2))
_net("resampled line", 1, lambda y: F.interpolate(F.interpolate(y, scale_factor=2.0), scale_factor=0.5, mode="linear"))
_net("pools of a volume", 3, lambda y: F.max_pool3d(y, 2) + F.avg_pool3d(y, 2) + F.adaptive_max_pool3d(y, 2))
_net("resampled volume", 3, lambda y: F.interpolate(F.adaptive_avg_pool3d(y, 2), scale_factor=2.0, mode="trilinear"))
_net("unpooled volume", 3, lambda y: F.max_unpool3d(*F.max_pool3d(y[..., :4, :4, :4], 2, return_indices=True), 2))
