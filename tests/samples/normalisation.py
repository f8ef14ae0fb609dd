"""Normalisations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .table import A, B, conv, free, image, linear, tokens


def _global_response(s, y):
    size = y.square().sum((2, 3), keepdim=True).sqrt()
    return y * (1 + s.g * size / (size.mean(1, keepdim=True) + 1e-6))


def _by_hand(s, y):
    centred = y - y.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def _two_under_one(s, y):
    return s.n(torch.cat([y, s.c(y)], 1))


class _ChannelsLast(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


# fmt: off
image("batch norm", lambda s, y: s.n(y), {A: 8, B: 6}, n=nn.BatchNorm2d(8))
image("batch norm without affine", lambda s, y: s.n(y), {A: 8, B: 6}, n=nn.BatchNorm2d(8, affine=False))
image("batch norm by batch statistics", lambda s, y: s.n(y), {A: 8, B: 6},
      n=nn.BatchNorm2d(8, track_running_stats=False))
image("batch norm of a vector", lambda s, y: s.n(s.f(y.flatten(1)))[..., None, None], {A: 8, "f.weight": 5, B: 6},
      out=5, fixed=True, f=linear(512, 5), n=nn.BatchNorm1d(5))
image("batch norm after flatten", lambda s, y: s.n(y.flatten(1)).view(y.shape), {A: 8, B: 6}, fixed=True,
      n=nn.BatchNorm1d(512))
image("batch norm over channels", lambda s, y: F.batch_norm(y.mT.transpose(1, 3), None, None, training=True)
      .transpose(1, 3).mT, {A: 8, B: 6})
image("functional batch norm", lambda s, y: F.batch_norm(y, None, None, s.w, s.v, True), {"w": 8, B: 6},
      w=free(8), v=free(8))
image("batch norm after cat", _two_under_one, {A: 8, "c.weight": 5, B: 6}, out=13, c=conv(8, 5), n=nn.BatchNorm2d(13))
image("instance norm", lambda s, y: s.n(y), {A: 8, B: 6}, n=nn.InstanceNorm2d(8, affine=True))
image("instance norm without affine", lambda s, y: s.n(y), {A: 8, B: 6}, n=nn.InstanceNorm2d(8))
image("instance norm by running statistics", lambda s, y: s.n(y), {A: 8, B: 6},
      n=nn.InstanceNorm2d(8, affine=True, track_running_stats=True))
image("group norm", lambda s, y: s.n(y), {A: 4, B: 6}, n=nn.GroupNorm(2, 8))
image("group norm of one group", lambda s, y: s.n(y), {A: 8, B: 6}, n=nn.GroupNorm(1, 8))
image("group norm, a channel each", lambda s, y: s.n(y), {A: 8, B: 6}, n=nn.GroupNorm(8, 8))
image("functional group norm", lambda s, y: F.group_norm(y, 2, s.w, s.v), {"w": 4, B: 6}, w=free(8), v=free(8))
image("group norm by a height", lambda s, y: F.group_norm(y, y.shape[2]), {B: 6}, fixed=True,
      frozen="a number of groups that depends on an input")
image("group norm, the operator", lambda s, y: torch.native_group_norm(y, None, None, 2, 8, 64, 2, 1e-5)[0], {B: 6},
      fixed=True, frozen="a size that the call states")
image("batch norm, the operator without statistics",
      lambda s, y: torch.ops.aten._native_batch_norm_legit.no_stats(y, None, None, True, 0.1, 1e-5)[0], {A: 8, B: 6})
image("group norm after cat", _two_under_one, {A: 8, "c.weight": 4, B: 6}, out=12, c=conv(8, 4), n=nn.GroupNorm(1, 12))
image("channels last", lambda s, y: s.n(y), {A: 8, B: 6}, n=_ChannelsLast(8))
image("layer norm over channels and space", lambda s, y: s.n(y), {A: 8, B: 6}, fixed=True, n=nn.LayerNorm((8, 8, 8)))
image("layer norm over all, no affine", lambda s, y: s.n(y), {A: 8, B: 6}, fixed=True,
      n=nn.LayerNorm((8, 8, 8), elementwise_affine=False))
image("layer norm over space", lambda s, y: s.n(y), {A: 8, B: 6}, fixed=True, n=nn.LayerNorm(8))
image("global response", _global_response, {"g": 8, B: 6}, g=free(8, 1, 1))
tokens("layer norm", lambda s, y: s.n(y), {A: 8}, n=nn.LayerNorm(8))
tokens("layer norm without affine", lambda s, y: s.n(y), {A: 8}, n=nn.LayerNorm(8, elementwise_affine=False))
tokens("layer norm without bias", lambda s, y: s.n(y), {A: 8}, n=nn.LayerNorm(8, bias=False))
tokens("functional layer norm", lambda s, y: F.layer_norm(y, (8,), s.w, s.v), {"v": 8}, v=free(8), w=free(8))
tokens("functional layer norm of all tokens", lambda s, y: F.layer_norm(y, (5, 8), s.w, s.v), {"w": 8}, fixed=True,
       w=free(5, 8), v=free(5, 8))
tokens("functional layer norm of its shape", lambda s, y: F.layer_norm(y, y.shape[-1:], s.w), {"w": 8}, w=free(8))
tokens("functional layer norm by keyword", lambda s, y: F.layer_norm(y, normalized_shape=[8], weight=s.w), {"w": 8},
       w=free(8))
tokens("layer norm, the operator", lambda s, y: torch.native_layer_norm(y, (8,), s.w, None, 1e-5)[0], {"w": 8},
       w=free(8))
tokens("layer norm, torch's own", lambda s, y: torch.layer_norm(y, [8], s.w, None, 1e-5), {"w": 8}, w=free(8))
tokens("root mean square norm, torch's own", lambda s, y: torch.rms_norm(y, (8,), s.w), {"w": 8}, w=free(8))
tokens("root mean square norm", lambda s, y: s.n(y), {A: 8}, n=nn.RMSNorm(8))
tokens("functional root mean square norm", lambda s, y: F.rms_norm(y, (8,), s.w, 1e-6), {"w": 8}, w=free(8))
tokens("normalised by hand", _by_hand, {A: 8})
tokens("widths without a common divisor", lambda s, y: s.d(s.n(torch.cat([y, s.c(y)], -1))), {"d.weight": 6}, out=6,
       c=linear(8, 7), n=nn.LayerNorm(15), d=linear(15, 6), frozen="no common divisor")
tokens("channels of bounded length", lambda s, y: torch.renorm(y.flatten(0, 1), 2, 1, 0.5).view(y.shape), {A: 8},
       fixed=True)
tokens("tokens of bounded length", lambda s, y: s.c(torch.renorm(y, 1, 1, 0.5)), {"c.weight": 6}, out=6, c=linear(8, 6),
       frozen="a norm runs over them")
tokens("batch statistics of tokens over channels", lambda s, y: F.batch_norm(y, None, None, training=True), {A: 8})
