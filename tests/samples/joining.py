"""Tensors joined with ones of one number: states of zeros beside an input, padding by hand."""

from __future__ import annotations

import torch

from .table import A, B, conv, free, image, linear, net, tokens


def _stepwise(s, x):
    """A cell that reads its state beside the input; the state begins as zeros (ConvLSTM)."""
    h = x.new_zeros(x.shape[0], 8, *x.shape[2:])
    for _ in range(2):
        gate, value = s.c(torch.cat([x, h], 1)).chunk(2, 1)
        h = gate.sigmoid() * value.tanh() + h
    return s.head(h.mean((2, 3)))


def _padded(s, y):
    """A row of zeros below the image."""
    return torch.cat([y, y.new_zeros(y.shape[0], 8, 1, y.shape[3])], 2)


def _beside(s, y):
    """Zeros in further channels."""
    return torch.cat([y, torch.zeros_like(y), y.relu()], 1)


def _stacked(s, y):
    return torch.stack([y, torch.ones_like(y), s.c(y)]).sum(0)


def _columns(s, y):
    """Columns of ones beside those of a weight: their sum is not that of ones."""
    return y @ torch.cat([s.w, torch.ones(3, s.w.shape[1], dtype=y.dtype)])


def _memory(s, y):
    """A matrix of zeros to which outer products are added, read by each token (fast weights)."""
    q, k = s.q(y).softmax(1), s.k(y)
    state, read = torch.zeros(y.shape[0], 8, 8, dtype=y.dtype), []
    for step in range(5):
        error = y[:, step] - torch.einsum("bij,bi->bj", state, k[:, step])
        state = state + torch.einsum("bi,bj->bij", k[:, step], error)
        read.append(torch.einsum("bij,bi->bj", state, q[:, step]))
    return torch.stack(read, 1)


# fmt: off
net("state of zeros beside an input", _stepwise, (torch.zeros(2, 3, 8, 8),), (torch.zeros(3, 3, 12, 10),),
    {"c.weight": 8}, c=conv(11, 16, 3), head=linear(8, 4))
image("joined with positions and scaled", lambda s, y: s.p * torch.cat([y, y.mean(1)[:, :4, None].repeat(1, 1, 8, 1)],
      1), {"p": 8, B: 6}, out=12, fixed=True, p=free(12, 1, 1))
image("one map for all channels", lambda s, y: torch.cat([s.c(y).sigmoid()] * 8, 1) * y, {A: 8, B: 6}, c=conv(8, 1))
image("one map that channels follow", lambda s, y: torch.concat(8 * [s.c(y)], dim=-3).add(y), {A: 8, B: 6},
      c=conv(8, 1))
image("maps joined with themselves", lambda s, y: torch.cat([s.c(y)] * 4, 1) * y, {A: 2, B: 6}, c=conv(8, 2))
image("one map, read as channels", lambda s, y: torch.concatenate([s.c(y)] * 6, 1), {A: 8, B: 6}, out=6,
      c=conv(8, 1))
image("one map, counted by the channels", lambda s, y: torch.cat([s.c(y)] * y.shape[1], 1) * y, {B: 6}, c=conv(8, 1),
      frozen="meets positions that carry no channels")
image("row of zeros appended", _padded, {A: 8, B: 6})
image("zeros in further channels", _beside, {A: 8, B: 6}, out=24)
image("stacked with ones", _stacked, {A: 8, B: 6}, c=conv(8, 8))
tokens("a number beside ones", lambda s, y: y * torch.cat([s.g.expand(4), torch.ones(4, dtype=y.dtype)]),
       {A: 4, "a.weight#2": 4}, g=free(1))
tokens("ones under the columns of a weight", _columns, {"w": 4}, out=4, width=8, w=free(5, 4),
       frozen="a product of activations")
tokens("memory of zeros", _memory, {A: 8, "q.weight": 8}, fixed=True, q=linear(8, 8), k=linear(8, 8))
tokens("matrices on a diagonal", lambda s, y: y @ torch.block_diag(s.p, s.q).mT, {"p": 3, "p#2": 4,
       "q": 5, "q#2": 4}, p=free(3, 4), q=free(5, 4))
tokens("tokens on a diagonal", lambda s, y: s.c(torch.block_diag(y[0], y[1].relu())[None, :5, :8]), {A: 8,
       "c.weight": 6}, out=6, fixed=True, c=linear(8, 6))
tokens("vectors on a diagonal", lambda s, y: s.c(torch.block_diag(y[0, 0], y[1])[:, :8]), {"c.weight": 6}, out=6,
       fixed=True, c=linear(8, 6), frozen="vectors put on a diagonal")
net("image joined with channels, then a sum", lambda s, x: s.head((torch.cat([x, s.a(x)], 1) + s.c(x)).mean((2, 3))),
    (torch.zeros(2, 3, 8, 8),), (torch.zeros(3, 3, 6, 9),), {A: 6}, a=conv(3, 6), c=conv(3, 9), head=linear(9, 4))
for name, dim in (("in front", 1), ("behind", -2)):
    tokens(f"rows stacked {name}", lambda s, y, dim=dim: y * torch.stack([s.g(y).expand(-1, -1, 8), s.h(y).expand(
           -1, -1, 8)], dim).select(dim, 1), {A: 8}, g=linear(8, 1), h=linear(8, 1))
tokens("a row beside one number", lambda s, y: y * torch.cat([s.g(y).expand(-1, -1, 7), s.h(y)], 2), {A: 7},
       g=linear(8, 1), h=linear(8, 1))
tokens("one row joined", lambda s, y: y * torch.cat([s.g(y).expand(-1, -1, 8)], 2), {A: 8}, g=linear(8, 1))
image("mean with one joined map", lambda s, y: y * torch.cat([y, torch.cat([s.g(y)], 1)], 1).mean(1, True), {B: 6},
      g=conv(8, 1), frozen="together with frozen channels")
image("positions joined with themselves", lambda s, y: y * torch.cat([y.mean(1, True)] * 2, 2)[:, :, : y.shape[2]],
      {A: 8, B: 6})
