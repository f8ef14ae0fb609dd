"""Values picked from places, or put at places, that an index names."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .interactions.constants import Constants
from .table import A, B, conv, free, image, linear, tokens

A2 = f"{A}#2"
ORDER = torch.tensor([3, 1, 0, 2, 4])
TURNED = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])


def _tokens_set(s, y):
    return torch.ops.aten.index_put(y, [None, torch.tensor([0, 3])], y[:, :2].mean(2, keepdim=True))


def _channels_set(s, y):
    return torch.ops.aten.index_put(y, [None, None, torch.tensor([1, 2])], y.mean(2, keepdim=True))


def _added(s, y):
    """Messages between tokens, as in a network on a graph."""
    source, target = torch.tensor([[0, 1, 2, 2], [1, 2, 0, 4]])
    z = s.c(y)
    return torch.zeros_like(z).index_add_(1, target, y[:, source]) + z


def _put(s, y):
    z = torch.zeros_like(y)
    z[:, [0, 2]] = s.c(y)[:, 1:3]
    z[:, torch.tensor([1, 3])] += y[:, :1]
    return z


def _singles_changed(s, y):
    z = y * 2
    z[:, 3] += 1
    z[:, -1] = z[:, 2].tanh()
    z[:, 1:2] *= z.select(1, y.shape[1] - 1)[:, None]
    return z


def _singles_turned(s, y):
    z = torch.zeros_like(y)
    z[:, 0], z[:, 1], z[:, 2:] = y[:, 1], y.select(dim=1, index=0), y[:, 2:]
    return z * s.c(z).select(1, -8).sigmoid()[:, None] + torch.select(s.c(z), 1, 0)[:, None]


def _put_channels(s, y):
    z = y.clone()
    z[:, torch.tensor([0, 2])] = s.c(y)
    return z


def _copied_and_filled(s, y):
    at, others = torch.tensor([6, 0, 3]), torch.tensor([1, 2])
    z = torch.index_copy(y, 1, at, s.c(y)).index_copy_(1, at, s.c(y)).index_copy(1, at, s.c(y) + 1)
    return torch.index_fill(z.index_fill_(1, others, 2.0).index_fill(1, others, 3.0), 1, others, 2.0) + z


def _added_to(s, y):
    at, z = torch.tensor([1, 2]), s.c(y)
    return torch.index_add(y, 1, index=at, source=z) + y.index_add(1, at, z, alpha=0.5) + y.clone().index_add_(1, at, z)


def _put_in_zeros(s, y):
    at, (n, _, h, w) = torch.arange(8) + 1, y.shape
    z = torch.zeros(n, 10, h, w, dtype=y.dtype).index_copy(1, at, y) + y.new_ones(n, 10, h, w).index_add(1, at, s.c(y))
    put = y.new_zeros(n, 10, h, w)
    put[:, at] = y
    return z + put


def _put_in_front(s, y):
    at = (torch.tensor([5, 2]),)
    z, source = y.transpose(0, 1), s.c(y).transpose(0, 1)
    put = torch.index_put(z, at, source).index_put(at, source, accumulate=True)
    return torch.index_put_(put, at, source * 2).index_put_(at, source, True).transpose(0, 1)


def _put_by_operator(s, y):
    return torch.ops.aten.index_put(y, [None, torch.tensor([5, 2])], torch.ops.aten.copy(y[:, :2], s.c(y)), True)


def _channels_put(s, y):
    z = y.slice_scatter(s.c(y), dim=1, end=2)
    return torch.slice_scatter(torch.zeros_like(z), z[:, 4:], 1, 4) + z.slice_scatter(s.c(z), 1, 4, 8, 2)


def _put_by_height(s, y):
    half = y.shape[2] // 4
    return y.slice_scatter(s.c(y)[:, :half], 1, 0, half)


def _scattered(s, y):
    at = (9 * y.amax(2, keepdim=True)).long().remainder(5).expand(-1, -1, y.shape[2])
    return y.scatter_add(1, at, s.c(y)) + torch.zeros_like(y).scatter_reduce(1, at, y, "amax")


def _slices_put(s, y):
    z = s.c(y)
    return torch.slice_scatter(y, z[:, :2], 1, 1, 3) + torch.linalg.cross(y[:, :3], z[:, :3], dim=1).mean(1, True)


def _looked_up(s, y):
    table = torch.linspace(-1, 1, 5)
    found = torch.bucketize(y, table) + 2 * torch.searchsorted(table, y) - torch.isin(y.round(), table).long()
    return y * found


def _in_itself(s, y):
    v = y.mean((0, 1)).abs()
    return s.c(y * torch.bucketize(v, v))


def _flow(s, y):
    """An invertible permutation, and a coupling of two halves."""
    left, right = y[:, s.k.turned].chunk(2, 1)
    return torch.cat([left, right * s.c(left).sigmoid()], 1)[:, torch.argsort(s.k.turned)]


def _half_put(s, y):
    z = torch.zeros_like(y)
    z[:, s.k.first] = s.c(y)
    z[:, ~s.k.first] = y[:, s.k.first] * 2
    return z


def _zeroed(s, y):
    z = y.clone()
    z[:, [0, 2, 5]] = 0.0
    return z


def _picked_then_changed(s, y):
    z = y.index_select(1, torch.arange(2, 6)) + y[:, [0, 1, 2, 3]].mul_(2)
    first, masked = y[:, [0, 1, 2, 3]], y[:, s.k.first]
    y.add_(1)
    return torch.cat([z, first * masked, y], 1)


def _nothing_put(s, y):
    z = y.clone()
    z[:, []] = 0.0
    return z


def _rolled_by_height(s, y):
    return y[:, (torch.arange(y.shape[1]) + y.shape[2]) % 8]


def _split_by_height(s, y):
    return y.split([y.shape[2] - 5, 13 - y.shape[2]], 1)[0].mean(1, keepdim=True) * y


def _kept_turning(s, y):
    z = y[:, s.k.turned]
    s.k.turned.add_(1).remainder_(8)
    return z


def _in_order(s, y):
    """Tokens behind a learned one, put back into a stored order, as in masked pretraining."""
    order = s.k.order[None, :, None].repeat(y.shape[0], 1, y.shape[2])
    return torch.cat([s.t.expand(y.shape[0], -1, -1), y[:, 1:5]], 1).gather(1, order)


def _added_in_order(s, y):
    at = s.k.order[None, :, None].expand(y.shape[0], -1, y.shape[-1])
    return y.scatter_add(1, at, s.c(y)) + torch.take_along_dim(y, s.k.order[None, :, None], 1).mean(1, True)


def _picked_by_stored(s, y):
    z = y * y[:, s.k.at].sigmoid()[:, None] + y.select(1, s.k.last)[:, None]
    z[:, s.k.at] = 0.5
    return z * y[:, s.k.turned[2]].tanh()[:, None]


def _picked_then_counted(s, y):
    z = y * y[:, s.k.at][:, None]
    s.k.at.add_(1).remainder_(8)
    return z


def _each_map(y, cut):
    """All channels of all samples side by side, of which a slice takes all."""
    maps = cut(y.mT.flatten(0, 1))
    return maps.relu().view(y.shape[0], -1, y.shape[1]).mT


# fmt: off
image("index, then changed in place", _picked_then_changed, {A: 2, A2: 2, B: 6}, out=16,
      k=Constants(first=TURNED < 4))
image("index by the size of an image", _rolled_by_height, {B: 6}, frozen="an index picks positions")
image("index by the size of channels", lambda s, y: y[:, (torch.arange(y.shape[1]) + y.size(1) // 2) % 8], {A: 8, B: 6})
image("index by new numbers", lambda s, y: y * y[:, torch.tensor([y.shape[2] - 7, 2])].mean(1, True), {B: 6},
      frozen="an index picks positions")
image("split by the size of an image", _split_by_height, {B: 6}, frozen="a split of channels that depends on an input")
image("index that the network changes", _kept_turning, {B: 6}, frozen="an index that the network changes",
      k=Constants(turned=TURNED.clone()))
image("stored numbers that pick channels", _picked_by_stored, {A: 5, B: 6}, frozen="one channel is picked by its index",
      k=Constants(at=torch.tensor(2), last=torch.tensor(-1), turned=TURNED))
image("stored number that the network changes", _picked_then_counted, {B: 6},
      frozen="an index that the network changes", k=Constants(at=torch.tensor(2)))
image("computed number that picks a channel", lambda s, y: y * y[:, s.c(y).mean((0, 2, 3)).argmax()][:, None], {B: 6},
      c=conv(8, 4), frozen="whose place is computed in a tensor")
image("slice with a step, beside an index", lambda s, y: y[:, ::2, [0, 1, 2]], {A: 4, A2: 4, B: 6}, out=4)
image("put nothing", _nothing_put, {A: 8, B: 6})
image("index", lambda s, y: y[:, [6, 2, 4, 0]], {A: 4, A2: 4, B: 6}, out=4)
image("index by a stored permutation", lambda s, y: y[:, s.k.turned].sigmoid(), {A: 8, B: 6},
      k=Constants(turned=TURNED))
image("index of a sum with itself", lambda s, y: y + y[:, s.k.turned], {A: 2, B: 6}, k=Constants(turned=TURNED))
image("index with repetition", lambda s, y: y[:, [0, 1, 2, 3, 3, 0]], {A: 2, A2: 2, f"{A}#3": 4, B: 6}, out=6)
image("index by a stored mask", lambda s, y: y[:, s.k.first], {A: 4, A2: 4, B: 6}, out=4, k=Constants(first=TURNED > 3))
image("index by a list with the size of an image", lambda s, y: y * y[:, [y.shape[2] - 7, 2]].mean(1, True), {B: 6},
      frozen="an index picks positions")
image("index of one channel, expanded", lambda s, y: y * y[:, [2]].expand(-1, 8, -1, -1), {A: 7, B: 6},
      frozen="one channel is picked by its index")
image("index of one channel", lambda s, y: y * y[:, [2]], {A: 7, B: 6}, frozen="one channel is picked by its index")
image("single channels changed in place", _singles_changed, {A: 4, B: 6}, frozen="one channel is sliced out")
image("single channels of a weight in another order", _singles_turned, {A: 6, B: 6, "c.weight": 7}, c=conv(8, 8),
      frozen="one channel is picked by its index")
image("one channel of a flattened image", lambda s, y: y + y.flatten(1)[:, 70, None, None, None], {A: 7, B: 6},
      fixed=True, frozen="one channel is picked by its index")
image("one channel by the size of an image", lambda s, y: y * y[:, y.shape[2] - 5, None], {B: 6}, fixed=True,
      frozen="one of the channels that depends on an input")
image("index by values", lambda s, y: y[:, s.c(y).mean((0, 2, 3)).argsort()], {B: 6}, c=conv(8, 8),
      frozen="an index picks positions")
image("permutation and its inverse", _flow, {A: 4, A2: 4, B: 6}, c=conv(4, 4), k=Constants(turned=TURNED))
tokens("rows of a weight by a stored permutation", lambda s, y: F.linear(y, s.w[s.k.turned]), {"w": 8, A: 8}, w=free(8,
       8), k=Constants(turned=TURNED))
tokens("columns of a weight by a stored permutation", lambda s, y: F.linear(y, s.w[:, s.k.turned]), {"w": 8, A: 8},
       w=free(8, 8), k=Constants(turned=TURNED))
image("put by a stored mask", _half_put, {A: 4, B: 6}, c=conv(8, 4),
      k=Constants(first=TURNED > 3))
image("put zeros", _zeroed, {A: 3, A2: 5, B: 6})
image("index in space", lambda s, y: y[:, :, [1, 0]][:, :, :, torch.tensor([0, 2])], {A: 8, B: 6})
image("index_select", lambda s, y: y.index_select(1, torch.arange(7, -1, -1)), {A: 8, B: 6})
image("index_select by a stored permutation", lambda s, y: torch.index_select(y, 1, s.k.turned), {A: 8, B: 6},
      k=Constants(turned=TURNED))
image("index by its operator", lambda s, y: torch.ops.aten.index(y, (None, s.k.turned)), {A: 8, B: 6},
      k=Constants(turned=TURNED))
tokens("index_select of rows of a weight", lambda s, y: F.linear(y, s.w.index_select(0, torch.tensor([4, 0, 2]))),
       {"w": 3, A: 8}, out=3, w=free(5, 8))
image("index_select in space", lambda s, y: y.index_select(2, torch.tensor([1, 3])), {A: 8, B: 6})
tokens("gather by a stored order", _in_order, {"t": 8}, t=free(1, 1, 8), k=Constants(order=ORDER))
tokens("scatter_add by a stored order", _added_in_order, {A: 8}, c=linear(8, 8), k=Constants(order=ORDER))
tokens("gather", lambda s, y: s.c(y).gather(1, s.d(y).argsort(1)), {A: 8, "c.weight": 8}, c=linear(8, 8),
       d=linear(8, 8))
image("gather over channels", lambda s, y: y.gather(1, s.c(y).argmax(1, keepdim=True)), {B: 6}, out=1, c=conv(8, 8),
      frozen="index picks")
tokens("index_add", _added, {A: 8}, fixed=True, c=linear(8, 8))
tokens("index_copy", lambda s, y: y.index_copy(1, torch.tensor([3, 1]), s.c(y)[:, :2]), {A: 8}, c=linear(8, 8))
image("index_add of channels", _added_to, {A: 6, A2: 2, B: 6}, c=conv(8, 2))
image("channels put in zeros and ones", _put_in_zeros, {A: 8, B: 6}, out=10, c=conv(8, 8))
image("index_put of channels in front", _put_in_front, {A: 6, A2: 2, B: 6}, c=conv(8, 2))
image("index_add to one channel twice", lambda s, y: y.index_add(1, torch.tensor([1, 1]), s.c(y)), {B: 6},
      c=conv(8, 2), frozen="index picks")
image("index_copy and index_fill of channels", _copied_and_filled, {A: 3, A2: 2, f"{A}#3": 3, B: 6}, c=conv(8, 3))
image("index_reduce of channels", lambda s, y: y.index_reduce(1, torch.tensor([1, 2]), s.c(y), "amax"), {B: 6},
      c=conv(8, 2), frozen="index picks")
image("index_put of channels by its operator", _put_by_operator, {A: 2, A2: 4, B: 6}, c=conv(8, 2))
image("slices of channels put", _channels_put, {A: 2, A2: 2, f"{A}#3": 2, B: 6}, c=conv(8, 2))
image("slice of channels put, by the size of an image", _put_by_height, {B: 6}, c=conv(8, 4),
      frozen="a slice of channels that depends on an input")
image("one channel put", lambda s, y: y.select_scatter(s.c(y)[:, 0], 1, -1), {A: 7, B: 6}, c=conv(8, 1),
      frozen="meets positions that carry no channels")
tokens("one token put", lambda s, y: torch.select_scatter(y, s.c(y).mean(1), 1, 2), {A: 8}, c=linear(8, 8))
tokens("index_fill", lambda s, y: y.index_fill(1, torch.tensor([1]), 2.0), {A: 8})
tokens("index_put", _put, {A: 8}, c=linear(8, 8))
image("index_put of channels", _put_channels, {A: 2, A2: 6, B: 6}, c=conv(8, 2))
tokens("scatter by channels of another", lambda s, y: y.scatter(1, s.d(y).argsort(1), s.c(y)), {A: 8}, c=linear(8, 8),
       d=linear(8, 8))
tokens("scatter, alike in all channels", _scattered, {A: 8}, c=linear(8, 8))
image("gather of all channels", lambda s, y: y.gather(1, (9 * y).long().remainder(8)), {B: 6}, frozen="index picks")
image("gather beside some channels", lambda s, y: y.gather(2, (y[:, :4] > 0).long()), {B: 6}, out=4,
      frozen="index picks")
image("scatter over channels", lambda s, y: y.scatter(1, s.c(y).argsort(1), 1.0), {B: 6}, c=conv(8, 2),
      frozen="index picks")
tokens("slices put and crossed", _slices_put, {A: 8}, c=linear(8, 8))
tokens("looked up in tables", _looked_up, {A: 8})
tokens("looked up in itself", _in_itself, {"c.weight": 6}, out=6, c=linear(8, 6), frozen="numbers of a table")
tokens("all maps of all samples", lambda s, y: _each_map(y, lambda maps: maps[: maps.shape[0]]), {A: 8})
tokens("maps counted by the samples", lambda s, y: s.c(_each_map(y, lambda maps: maps[: 8 * y.size(0)])),
       {"c.weight": 6}, out=6, c=linear(8, 6), frozen="a slice of channels that depends on an input")
tokens("tokens set to one number each", _tokens_set, {A: 8})
tokens("channels set to one number", _channels_set, {A: 6, A2: 2})
tokens("two channels at their places", lambda s, y: y[..., [0, 3]], {A: 2, A2: 6}, out=2)
tokens("at a place without axes", lambda s, y: torch.ops.aten.index(y, [None, torch.tensor(1)]), {A: 8})
