"""The same call as a method, as a function, by place and by keyword; sizes as numbers, read, computed or open."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..table import A, B, conv, image, linear, tokens

A2, A3 = f"{A}#2", f"{A}#3"


def _numel(s, y):
    return y * (y.numel() / y.shape[1:].numel() / y.size(0))


def _spread_by_elements(s, y):
    n, _, h, w = y.shape
    return y.mean((2, 3), keepdim=True).expand(n, torch.numel(y) // (n * h * w), h, y.nelement() // (n * 8 * h))


def _size_by_keyword(s, y):
    return y.reshape(shape=(y.size(dim=0), y.size(1), -1)).view(y.size(0), y.size(1), *y.shape[2:])


def _sums_of_shapes(s, y):
    return y.reshape(y.shape[:2] + (-1,)).reshape(y.shape)  # noqa: RUF005  (sizes added are what it samples)


def _scaled(s, y):
    return y * y.shape[1] ** -0.5 + len(y.shape) / y.size(-3) + y.ndim * y.dim()


# fmt: off
image("reshape", lambda s, y: torch.reshape(y, (y.shape[0], 2, 4, -1)).mean(1).unsqueeze(-1), {A: 4, B: 6}, out=4)
image("reshape by keyword", lambda s, y: torch.reshape(input=y, shape=(-1, 8, y.shape[2], y.shape[3])), {A: 8, B: 6})
image("reshape to the shape of another", lambda s, y: s.c(y).flatten(2).view(y.shape), {A: 8, "c.weight": 8, B: 6},
      c=conv(8, 8))
image("sizes by keyword", _size_by_keyword, {A: 8, B: 6})
image("sizes added", _sums_of_shapes, {A: 8, B: 6})
image("sizes as numbers", _scaled, {A: 8, B: 6})
image("number of elements", _numel, {A: 8, B: 6})
image("number of elements as a size", _spread_by_elements, {A: 8, B: 6})
image("unflatten", lambda s, y: torch.unflatten(y, 1, (2, -1)).mean(1), {A: 4, B: 6}, out=4)
image("unflatten by keyword", lambda s, y: y.unflatten(dim=-3, sizes=(2, 4)).amax(1), {A: 4, B: 6}, out=4)
image("unflatten, a layer", lambda s, y: s.u(y).mean(1), {A: 4, B: 6}, out=4, u=nn.Unflatten(1, (2, 4)))
image("number of samples by len", lambda s, y: y.reshape(len(y), 8, *y.shape[2:]), {A: 8, B: 6})
image("expand", lambda s, y: y[:, None].expand(y.shape[0], 3, 8, *y.shape[2:]).flatten(1, 2), {A: 8, B: 6}, out=24)
image("expand as", lambda s, y: y * s.g(y.mean((2, 3), keepdim=True)).expand_as(y), {A: 8, B: 6}, g=conv(8, 8))
image("broadcast_to", lambda s, y: y * torch.broadcast_to(s.g(y.mean((2, 3), keepdim=True)), y.shape), {A: 8, B: 6},
      g=conv(8, 8))
image("broadcast_to, a method", lambda s, y: y * s.g(y.mean((2, 3), keepdim=True)).broadcast_to(y.shape), {A: 8, B: 6},
      g=conv(8, 8))
image("split by keyword", lambda s, y: torch.split(tensor=y, split_size_or_sections=[3, 5], dim=1)[1],
      {A: 3, A2: 5, B: 6}, out=5)
image("split, a method", lambda s, y: y.split(split_size=3, dim=-3)[2], {A: 3, A2: 3, A3: 2, B: 6}, out=2)
image("split_with_sizes", lambda s, y: torch.split_with_sizes(y, [6, 2], 1)[0], {A: 6, A2: 2, B: 6}, out=6)
image("split_with_sizes, a method", lambda s, y: y.split_with_sizes((5, 3), 1)[1], {A: 5, A2: 3, B: 6}, out=3)
image("chunk by keyword", lambda s, y: torch.chunk(input=y, chunks=2, dim=1)[1], {A: 4, A2: 4, B: 6}, out=4)
image("tensor_split", lambda s, y: torch.cat(torch.tensor_split(y, 3, dim=1)[1:], 1), {A: 3, A2: 3, A3: 2, B: 6}, out=5)
image("tensor_split at places", lambda s, y: y.tensor_split((2, 6), dim=1)[1], {A: 2, A2: 4, A3: 2, B: 6}, out=4)
image("narrow by keyword", lambda s, y: y.narrow(dim=1, start=1, length=6), {A: 2, A2: 6, B: 6}, out=6)
image("slice with an ellipsis", lambda s, y: y[..., 1:7, :, ::2], {A: 2, A2: 6, B: 6}, out=6)
image("slice beside an index", lambda s, y: y[:, None, ::2][:, 0, :, 1:], {A: 4, A2: 4, B: 6}, out=4)
image("pad by keyword", lambda s, y: F.pad(input=y, pad=(0, 0, 0, 0, 1, 2), value=0.5), {A: 8, B: 6}, out=11)
image("constant_pad_nd", lambda s, y: torch.constant_pad_nd(y, [0, 0, 0, 0, 4, 0], 1.0), {A: 8, B: 6}, out=12)
image("layer by keyword", lambda s, y: s.d(input=y), {A: 8, B: 6}, d=conv(8, 8, 3, groups=8))
image("one image", lambda s, y: s.c(y[0])[None], {A: 8, "c.weight": 5, B: 6}, out=5, fixed=True, c=conv(8, 5))
tokens("product by keyword", lambda s, y: torch.matmul(input=y, other=s.c(y).mT).softmax(-1) @ y, {A: 8},
       c=linear(8, 8))
tokens("product by its operator's name", lambda s, y: y.__matmul__(s.c(y).mT).softmax(-1) @ y, {A: 8}, c=linear(8, 8))
tokens("batched product", lambda s, y: torch.bmm(y, s.c(y).mT).bmm(y), {A: 8}, c=linear(8, 8))
tokens("leading sizes spread", lambda s, y: y.view(*y.shape[:-1], 2, 4).mean(-2), {A: 4}, out=4)
tokens("leading sizes kept", lambda s, y: y.reshape(y.shape[:-1] + (2, 4)).mean(dim=-2), {A: 4}, out=4)  # noqa: RUF005
tokens("all sizes given", lambda s, y: y.reshape(-1, 8).view(y.size(0), y.size(1), 8), {A: 8})
