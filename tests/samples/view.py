"""Views: merging axes repeats a channel, splitting an axis bundles channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .interactions.constants import Constants
from .table import A, B, conv, free, image, linear, net, tokens


def _shuffle(s, y):
    n, c, h, w = y.shape
    return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def _disagree(s, y):
    n, _, h, w = y.shape
    return y.view(n, 2, 4, h, w).mean(1) * y.view(n, 4, 2, h, w).mean(2)


def _by_operators(s, y):
    n, c, h, w = y.shape
    rows = torch.ops.aten.view(torch.ops.aten.slice(torch.ops.aten.cat([y, y], 1), 1, 0, c), (n, c, -1))
    return torch.ops.aten.layer_norm(rows.mT, (c,)).mT.unflatten(2, (h, w))


def _per_image_and_channel(s, y):
    n, c, h, w = y.shape
    return s.k(y.reshape(n * c, 1, h, w)).view(n, c, h, w)


def _per_image_and_channel_open(s, y):
    n, _, h, w = y.shape
    return s.k(y.reshape(-1, 1, h, w)).reshape(n, -1, h, w)


def _groups_in_the_batch(s, y):
    n, c, h, w = y.shape
    z = y.reshape(n * 4, c // 4, h, w)
    return (z * z.mean((2, 3), keepdim=True).sigmoid()).view(n, c, h, w)


def _repeats_apart(s, y):
    n, c, h, w = y.shape
    return y.repeat_interleave(3, 1).reshape(n, c, -1, h, w).amax(2)


def _viewed_twice(s, y):
    n, c, h, w = y.shape
    z = (y.view(n * c, -1, 1, 1) * torch.ones(3, 3)).view(n * c, h, w, 3, 3)
    return z.mean((3, 4)).view(n, c, h, w)


def _spread_in_the_batch(s, y):
    n, c, h, w = y.shape
    z = y.view(n * c, 1, h, w).expand(n * c, 2, h, w) * torch.linspace(1, 2, 2)[:, None, None]
    return z.amax(1).view(n, c, h, w)


def _parted_in_the_batch(s, y):
    n, c, h, w = y.shape
    z = y.view(n * c * h, w).unflatten(0, (n * c, h))
    return z.sigmoid().view(n, c, h, w)


def _space_to_depth(s, y):
    n, c, h, w = y.shape
    return y.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def _windows(s, y):
    n, t, c = y.shape
    return s.c(y.view(n * t, c)).view(n, t, -1)


def _of_another(s, x):
    n, t, c = s.u(x).shape
    return s.head(s.a(x).reshape(n, t, 2, c // 2).transpose(2, 3).reshape(n, t, c) + s.c.sum())


def _outer(s, x):
    u, v = s.a(x), s.b(x)
    return s.head((u[..., :, None] * v[..., None, :]).flatten(-2))


def _repeated(s, y):
    return y.repeat(1, 2, 1, 1) + torch.tile(y, (1, 2, 1, 1))


def _merged_and_split_again(s, y):
    n, c, h, w = y.shape
    return y.reshape(n, c * h * w).reshape(n, c, h, w)


def _across_positions(s, x):
    y = s.a(x)
    return s.head(s.b(y.reshape(len(y), y.shape[2], y.shape[1])).relu().mean(2))


# fmt: off
image("merged with space and back", lambda s, y: y.flatten(2).unflatten(2, y.shape[2:]), {A: 8, B: 6})
image("merged whole and back", _merged_and_split_again, {A: 8, B: 6})
image("views by name", lambda s, y: torch.reshape(y, shape=(y.shape[0], 2, 4, *y.shape[2:])).view(size=y.shape),
      {A: 4, B: 6})
image("tokens and back", lambda s, y: y.flatten(2).mT.mT.reshape(y.shape), {A: 8, B: 6})
image("views by their operators", _by_operators, {A: 8, B: 6})
image("ravel", lambda s, y: torch.flatten(torch.ravel(y).view_as(y).ravel()).view_as(y), {A: 8, B: 6})
image("viewed like another by name",
      lambda s, y: (y + y.mean((2, 3), True).expand_as(other=y)).flatten(2).view_as(other=y), {A: 8, B: 6})
image("reshaped like another", lambda s, y: y.flatten(2).relu().reshape_as(y), {A: 8, B: 6})
image("viewed like what is narrower", lambda s, y: y.mean(1, True) * s.c(y).sort(1)[0].flatten(1).view_as(y),
      {A: 8, B: 6}, c=conv(8, 8), frozen="sort over channels")
image("channel shuffle by view", _shuffle, {A: 4, B: 6})
image("channel shuffle", lambda s, y: s.s(y), {A: 4, B: 6}, s=nn.ChannelShuffle(2))
image("channel shuffle after groups", lambda s, y: F.channel_shuffle(s.d(y), 2), {A: 4, "d.weight": 4, B: 6},
      d=conv(8, 8, groups=2))
image("views that disagree", _disagree, {B: 6}, out=4, frozen="view as 2 x 4")
image("batch and channels merged", _per_image_and_channel, {A: 8, B: 6}, k=conv(1, 1, 3))
image("batch and channels merged, open", _per_image_and_channel_open, {A: 8, B: 6}, out=16, k=conv(1, 2, 3))
image("groups in the batch", _groups_in_the_batch, {A: 4, B: 6}, width=16)
image("image and channel viewed twice", _viewed_twice, {A: 8, B: 6})
image("image and channel spread", _spread_in_the_batch, {A: 8, B: 6})
image("image and channel parted", _parted_in_the_batch, {A: 8, B: 6})
image("repeats apart, open", _repeats_apart, {A: 8, B: 6})
image("pixel shuffle", lambda s, y: s.p(y), {A: 4, B: 6}, width=16, out=4, p=nn.PixelShuffle(2))
image("pixel shuffle, called", lambda s, y: F.pixel_shuffle(y, 2), {A: 4, B: 6}, width=16, out=4)
image("pixel unshuffle", lambda s, y: F.pixel_unshuffle(y, 2), {A: 8, B: 6}, out=32)
image("pixels there and back", lambda s, y: F.pixel_shuffle(F.pixel_unshuffle(y, 2), 2), {A: 8, B: 6})
image("unfolded", lambda s, y: F.unfold(y, 3, padding=1).view(y.shape[0], -1, *y.shape[2:]), {A: 8, B: 6}, out=72)
image("unfolded as a layer", lambda s, y: y * s.u(y).mean(2).view(y.shape[0], -1, 4, 1).amax(2, keepdim=True),
      {A: 8, B: 6}, u=nn.Unfold(2))
image("one image unfolded", lambda s, y: y * F.unfold(y[0], 3, padding=1).amax(), {A: 8, B: 6})
image("folded", lambda s, y: F.fold(y.flatten(2), [2 * n for n in y.shape[2:]], 2, stride=2), {A: 4, B: 6}, width=16,
      out=4)
image("unfolded and folded", lambda s, y: F.fold(F.unfold(y, 3, padding=1), y.shape[2:], 3, padding=1), {A: 8, B: 6})
image("space to depth by view", _space_to_depth, {A: 8, B: 6}, out=32)
image("repeat and tile", _repeated, {A: 8, B: 6}, out=16)
image("repeat_interleave", lambda s, y: y.repeat_interleave(2, dim=1), {A: 8, B: 6}, out=16)
image("repeat_interleave in space", lambda s, y: torch.repeat_interleave(y, 2, 3), {A: 8, B: 6})
image("view by a list of computed length", lambda s, y: y * s.c(y.mean((2, 3), True)).view(
      [y.shape[0], y.shape[1]] + [1] * (y.ndim - 2)), {A: 8, B: 6}, c=conv(8, 8))
image("repeat_interleave by a table", lambda s, y: y.repeat_interleave(s.k.often, 1), {A: 4, f"{A}#2": 4, B: 6}, out=12,
      k=Constants(often=torch.tensor([1, 2] * 4)))
image("repeat_interleave by a table, of flattened means", lambda s, y: y * y.mean((0, 2, 3)).repeat_interleave(
      torch.ones(8).long())[:, None, None], {B: 6}, frozen="an index picks positions")
tokens("tokens repeated by a table", lambda s, y: y.repeat_interleave(torch.full((y.shape[1],), 2), 1), {A: 8})
image("repeat_interleave of all", lambda s, y: y.repeat_interleave(2).view(y.shape[0], -1, 1, 1), {A: 8, B: 6},
      out=1024,
      fixed=True)
tokens("tokens in the batch", _windows, {A: 8, "c.weight": 6}, out=6, c=linear(8, 6))
tokens("heads mixed", lambda s, y: y.unflatten(-1, (2, 4)).mean(-2), {A: 4}, out=4)
tokens("heads of odd width mixed", lambda s, y: y.unflatten(-1, (2, 7)).mean(-2), {A: 7}, width=14, out=7)
tokens("whole heads", lambda s, y: y.reshape(*y.shape[:-1], 4, 2).transpose(-1, -2).flatten(-2), {A: 4})
tokens("outer product", lambda s, y: (y[..., :, None] * s.c(y)[..., None, :]).flatten(-2), {A: 8}, out=48,
       c=linear(8, 6), frozen="merged with another axis of channels")
net("sizes of another tensor", _of_another, (torch.zeros(2, 5, 3),), (torch.zeros(3, 7, 3),), {A: 4, "u.weight": 8},
    a=linear(3, 8),
    u=linear(3, 8), head=linear(8, 4), c=free(1))
tokens("channels repeated to a number of them", lambda s, y: y.repeat_interleave(2, dim=2, output_size=16), {A: 8},
       out=16)
for length, width in ((6, 4), (4, 6)):
    net(f"{width} channels viewed across {length} positions", _across_positions, (torch.zeros(2, 3, length),), None,
        {A: 2, B: 5}, a=nn.Conv1d(3, width, 1), b=nn.Conv1d(length, 5, 1), head=linear(5, 4))
tokens("axes that cross channels twice", lambda s, y: y * y.view(-1, 6, 8).view(-1, 8, 6).amax((1, 2))[:, None, None],
       {A: 2}, width=12, length=4, fixed=True)
tokens("view of no tokens", lambda s, y: s.c(torch.cat([y[:, :0].reshape(0, 8), y.flatten(0, 1)])).view(*y.shape[:2],
       6), {"c.weight": 6}, out=6, c=linear(8, 6), frozen="view of an empty tensor")
