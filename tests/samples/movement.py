"""Axes moved, cut and put together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .table import A, B, conv, free, image, linear, net, tokens

A2 = f"{A}#2"


def _uneven(s, y):
    u, v = y.split([3, 5], 1)
    return torch.cat([s.c(u), v.relu()], 1)


def _option_a(s, y):
    shortcut = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    return s.c(y) + shortcut


def _option_a_told(s, x):
    shortcut = s.a(x)
    y = s.c(x) + F.pad(shortcut[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    return s.head(s.b(y).mean((2, 3))), shortcut


def _padded_average(s, y):
    y = F.pad(y, (0, 0, 0, 0, 2, 2))
    return y * y.mean(1, keepdim=True)


def _tokens_first(s, y):
    return torch.cat([s.t.expand(y.shape[0], -1, -1), y], 1) + s.p


def _stacked(s, y):
    return torch.stack([y, s.c(y)], 1).mean(1)


def _strips(s, y):
    u, v = y.split([4, 4], 1)
    return torch.cat([F.max_pool2d(u, 3, 1, 1), F.avg_pool2d(v, 3, 1, 1)], 1)


def _rotary(s, y):
    return torch.cat([-y[..., 4:], y[..., :4]], -1) * s.g + y


def _dense(s, y):
    for layer in (s.c, s.d):
        y = torch.cat([y, layer(y).relu()], 1)
    return y


def _two_scales(s, y):
    return (torch.cat([y, y], 1) * torch.cat([s.p, s.q]))[:, 4:12]


def _halves_met(s, y):
    u, v = y.chunk(2, 1)
    return torch.cat([u * v, y[:, 1:5]], 1)


def _halves_read(s, y):
    return torch.cat([s.c(y[:, :4]) + s.c(y[:, 4:]), y[:, 1:5]], 1)


def _stack_taken_apart(s, y):
    both = torch.stack([y, y.relu()], 1)
    return torch.cat([both[:, 0], both[:, 1]], 1)[:, 4:12]


def _swaps(s, y):
    return s.c(y.permute(0, 2, 3, 1).transpose(-1, 1).swapaxes(1, 3).movedim(-1, 1))


# fmt: off
image("permuted and back", _swaps, {A: 8, B: 6, "c.weight": 5}, out=5, c=conv(8, 5))
image("whatever has length 1 goes", lambda s, y: y.mean((2, 3), True).squeeze().reshape(-1, 2, 1, 1) * y, {A: 2, B: 6},
      width=2)
image("whatever has length 1 goes, a function", lambda s, y: torch.squeeze(y[:, None]).reshape(y.shape), {A: 2, B: 6},
      width=2)
image("channels are squeezed, which stay", lambda s, y: y.squeeze_(1).squeeze(1), {A: 8, B: 6})
image("squeezed channels and positions", lambda s, y: y * y.mT.flatten(1, 3).squeeze(1)[:, None].squeeze(1).mean(1)[
      :, None, None, None], {A: 8, B: 6})
image("axes of length 1", lambda s, y: y[:, None].unsqueeze(1).squeeze(1).squeeze((1,)), {A: 8, B: 6})
image("gate expanded", lambda s, y: y * s.g(y.mean((2, 3)))[:, :, None, None].expand(-1, -1, *y.shape[2:]),
      {A: 8, B: 6}, g=linear(8, 8))
image("copies", lambda s, y: y.contiguous().clone().detach().float().to(y.dtype), {A: 8, B: 6})
image("slice", lambda s, y: y[:, 2:6], {A: 4, A2: 4, B: 6}, out=4)
image("slice by its operator", lambda s, y: torch.ops.aten.slice.Tensor(y, 1, 2, 6), {A: 4, A2: 4, B: 6}, out=4)
image("negative slice", lambda s, y: y[:, -3:], {A: 5, A2: 3, B: 6}, out=3)
image("slice to a computed end", lambda s, y: y[:, : y.shape[1] // 2], {A: 4, A2: 4, B: 6}, out=4)
image("strided slice", lambda s, y: y[:, ::2], {A: 4, A2: 4, B: 6}, out=4)
image("slices treated differently", lambda s, y: torch.cat([y[:, :4].relu(), y[:, 4:]], 1), {A: 4, A2: 4, B: 6})
image("slices pooled differently", _strips, {A: 4, A2: 4, B: 6})
image("slice across two kinds of copies", lambda s, y: torch.cat([y, y.relu()], 1)[:, 4:12], {A: 4, A2: 4, B: 6})
image("slice across two scales", _two_scales, {"p": 4, "p#2": 4, B: 6}, p=free(8, 1, 1), q=free(8, 1, 1))
image("slice across halves that met", _halves_met, {A: 3, B: 6})
image("slice across halves under one layer", _halves_read, {A: 3, "c.weight": 4, B: 6}, c=conv(4, 4))
image("slice across a stack", _stack_taken_apart, {A: 4, A2: 4, B: 6})
image("one channel", lambda s, y: y * y[:, 3:4], {A: 7, B: 6}, frozen="one channel is sliced out")
image("one channel by its index", lambda s, y: y * y[:, 3][:, None], {A: 7, B: 6}, frozen="picked by its index")
image("every channel alone", lambda s, y: torch.stack(y.unbind(1), 1), {B: 6}, frozen="taken apart")
image("narrow", lambda s, y: y.narrow(1, 2, 3), {A: 5, A2: 3, B: 6}, out=3)
image("narrowed to all of a length that the image tells", lambda s, y: y.narrow(1, 0, y.shape[2]), {B: 6}, fixed=True,
      frozen="a slice of channels that depends on an input")
image("narrow from the end", lambda s, y: torch.narrow(y, 1, -4, 4), {A: 4, A2: 4, B: 6}, out=4)
image("uneven split", _uneven, {A: 3, A2: 5, B: 6, "c.weight": 7}, out=12, c=conv(3, 7))
image("split and turned round", lambda s, y: torch.cat(torch.split(y, 4, dim=1)[::-1], 1), {A: 4, A2: 4, B: 6})
image("chunk of uneven parts", lambda s, y: torch.cat(y.chunk(3, 1)[::2], 1), {A: 3, A2: 3, f"{A}#3": 2, B: 6}, out=5)
image("split into single channels", lambda s, y: torch.cat(y.split(1, 1)[::-1], 1), {B: 6}, frozen="single channels")
image("flip", lambda s, y: y.flip(1), {A: 8, B: 6})
image("flip against itself", lambda s, y: y + y.flip(1), {A: 4, B: 6})
tokens("a weight turned round", lambda s, y: F.linear(y, s.w.flip(0)), {"w": 6, A: 8}, out=6, w=free(6, 8))
tokens("a weight twice", lambda s, y: F.linear(y, s.w.repeat(2, 1)), {"w": 6, A: 8}, out=12, w=free(6, 8))
image("roll", lambda s, y: y.roll(1, 1), {B: 6}, frozen="channels are rotated")
image("roll of everything", lambda s, y: y.roll(1), {B: 6}, frozen="channels are rotated")
image("roll in space", lambda s, y: torch.roll(y, (1, 2), (2, 3)), {A: 8, B: 6})
image("cat", lambda s, y: torch.cat([y, s.c(y)], 1), {A: 8, B: 6, "c.weight": 5}, out=13, c=conv(8, 5))
image("cat with itself", lambda s, y: torch.cat([y, y.relu()], 1), {A: 8, B: 6}, out=16)
image("cat with a part of itself", lambda s, y: torch.cat([y, y[:, :3]], 1), {A: 3, A2: 5, B: 6}, out=11)
image("cat with one map", lambda s, y: torch.cat([y, y.mean(1, keepdim=True)], 1), {A: 8, B: 6}, out=9)
image("cat with a constant", lambda s, y: torch.cat([y, y[:, :1] * 0 + torch.ones(3, 1, 1)], 1), {A: 7, B: 6}, out=11,
      frozen="one channel is sliced out")
image("dense", _dense, {A: 8, B: 6, "c.weight": 5, "d.weight": 4}, out=17, c=conv(8, 5), d=conv(13, 4))
image("cat in space", lambda s, y: torch.cat([y, s.c(y)], 2), {A: 8, B: 6}, c=conv(8, 8))
tokens("stack of one weight", lambda s, y: F.linear(y, torch.stack([s.w])[0]), {A: 8, "w": 6}, out=6, w=free(6, 8))
image("stack", _stacked, {A: 8, B: 6}, c=conv(8, 8))
image("padded shortcut", _option_a, {"c.weight": 4, A: 8, B: 6}, out=12, c=conv(8, 12, 3, stride=2))
net("padded shortcut that is an output", _option_a_told, (torch.zeros(2, 3, 8, 8),), (torch.zeros(3, 3, 6, 4),),
    {"c.weight": 4, B: 6}, a=conv(3, 8), c=conv(3, 12, 3, stride=2), b=conv(12, 6), head=linear(6, 4))
image("padding read", lambda s, y: F.pad(y, (1, 1, 1, 1, 2, 3)), {A: 8, B: 6}, out=13)
image("padding by a value", lambda s, y: F.pad(y, (0, 0, 0, 0, 0, 4), value=2.0), {A: 8, B: 6}, out=12)
image("negative padding", lambda s, y: F.pad(y, (0, 0, 0, 0, -2, 3)), {A: 2, A2: 6, B: 6}, out=9)
image("padding by a length that the image tells", lambda s, y: F.pad(y, (0, 0, 0, 0, 0, y.shape[2] - 8)), {B: 6},
      fixed=True, frozen="padding of channels that depends on an input")
image("padding of channels behind positions", lambda s, y: F.pad(y.transpose(1, 2), (0, 0, 2, 1, 0, 0)).transpose(1, 2),
      {A: 8, B: 6}, out=11)
image("padding averaged", _padded_average, {B: 6}, out=12, frozen="mean over channels")
image("padding in space", lambda s, y: s.p(F.pad(y, (1, 2))), {A: 8, B: 6}, p=nn.ZeroPad2d(1))
image("arbitrary strides", lambda s, y: y.as_strided((y.shape[0], 8, 4, 4), (512, 64, 8, 1)), {B: 6}, fixed=True,
      frozen="arbitrary strides")
tokens("strides that it has", lambda s, y: s.c(y.as_strided((y.shape[0], 5, 8), (40, 8, 1)).relu()), {"c.weight": 6},
       out=6, fixed=True, c=linear(8, 6), frozen="arbitrary strides")
tokens("strides by the operator", lambda s, y: s.c(torch.ops.aten.as_strided.default(y, (len(y), 5, 8), (40, 8, 1))),
       {"c.weight": 6}, out=6, fixed=True, c=linear(8, 6), frozen="arbitrary strides")
tokens("turned over by strides", lambda s, y: s.c(y.as_strided((y.shape[0], 8, 8), (64, 1, 8))), {"c.weight": 6}, out=6,
       length=8, fixed=True, c=linear(8, 6), frozen="arbitrary strides")
tokens("windows over channels", lambda s, y: s.c(y * y.mean((0, 1)).unfold(-1, 2, 2).mean()), {"c.weight": 6}, out=6,
       c=linear(8, 6), frozen="treated as space")
tokens("axes from the end", lambda s, y: torch.stack([y, y.unsqueeze(-2).squeeze(-2)], -2).select(-2, 1), {A: 8})
tokens("class token and positions", _tokens_first, {"t": 8}, fixed=True, t=free(1, 1, 8), p=free(1, 6, 8))
tokens("rotary halves", _rotary, {"g": 4}, g=free(8))
net("turned over", lambda s, x: s.head(s.a(x).t().t_().T.T), (torch.zeros(2, 3),), (torch.zeros(5, 3),), {A: 8},
    a=linear(3, 8), head=linear(8, 4))
image("slice to an end that the image tells", lambda s, y: y[:, : y.shape[2] // 2], {B: 6}, out=4, fixed=True,
      frozen="a slice of channels that depends on an input")
image("slice behind others, likewise", lambda s, y: y[None][..., : y.shape[2] // 2, 1:, :][0], {B: 6}, out=4,
      fixed=True, frozen="a slice of channels that depends on an input")
image("image cut by half", lambda s, y: y[:, 2:, : y.shape[2] // 2], {A: 2, "a.weight#2": 6, B: 6}, out=6)
image("padded as the image tells", lambda s, y: F.pad(y, (0, 0, 0, 0, 0, y.shape[2] // 4)), {B: 6}, out=10, fixed=True,
      frozen="padding among channels that depends on an input")
image("image padded as it tells", lambda s, y: F.pad(y, (0, 0, 0, y.shape[2] // 4, 0, 2)), {A: 8, B: 6}, out=10)
image("ones like one channel", lambda s, y: y * torch.ones_like(y[:, 5:6]), {A: 8, B: 6})
image("ones like one channel, narrowed", lambda s, y: y * torch.ones_like(y.narrow(1, 6, 1)), {A: 8, B: 6})
image("zeros like the last channel", lambda s, y: y + torch.zeros_like(y[:, -1])[:, None], {A: 8, B: 6})
image("one channel, also read", lambda s, y: y * torch.ones_like(y[:, 5:6]) + y[:, 5:6], {A: 7, B: 6},
      frozen="one channel is sliced out")
image("split into two channels", lambda s, y: torch.cat(y.split(1, 1)[::-1], 1), {B: 6}, width=2,
      frozen="single channels")
image("one channel split off and expanded", lambda s, y: y * y.split([1, 7], 1)[0].expand(-1, 8, -1, -1), {A: 7, B: 6},
      frozen="split into single channels")
