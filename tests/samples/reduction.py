"""Averages, extremes, sums and softmax, over channels and over other axes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .table import A, B, conv, free, image, linear, net, tokens


def _spatial_gate(s, y):
    return y * s.g(torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)).sigmoid()


def _spatial_gate_by_max(s, y):
    return y * s.g(torch.cat([y.mean(1, keepdim=True), y.max(1, keepdim=True)[-2]], 1)).sigmoid()


def _over_space(s, y):
    gate = y.sum((2, 3), keepdim=True) + y.std((2, 3), keepdim=True) + y.norm(dim=(2, 3), keepdim=True)
    return y * (gate + y.max(2, keepdim=True)[0] + y.logsumexp(3, keepdim=True)).sigmoid()


def _variance(unbiased):
    return lambda s, y: y * y.var(1, keepdim=True, unbiased=unbiased) + torch.var_mean(y, (2, 3), keepdim=True)[1]


def _variances(s, y):
    gate = torch.std(y, (1, 2), True, True) + torch.var_mean(y, (-3, 2), keepdim=True)[0] + y.std(1, True, keepdim=True)
    return y * (gate + torch.var(y, 1, correction=2, keepdim=True) + torch.std_mean(y, 1, keepdim=True)[0])


def _logs_of_sums(s, y):
    return y * y.logsumexp(1, keepdim=True) + torch.logsumexp(y, (1, 2), keepdim=True) - y.logsumexp(3, keepdim=True)


def _lengths(s, y):
    gate = torch.norm(y, dim=1, keepdim=True) + y.norm(float("inf"), 1, keepdim=True) + y.norm(1.5, 1, keepdim=True)
    gate = gate + torch.linalg.vector_norm(y, 1, (1, 2), keepdim=True)
    return y * gate * torch.linalg.norm(y.flatten(2), dim=1).mean(1)[:, None, None, None]


def _distances(s, y):
    many, other = y.repeat(1, 6, 1), s.c(y)  # more than 25 rows are compared by a matrix product
    return (
        y * sum(torch.cdist(x, other, p).mean((1, 2)) for x in (y, many) for p in (1, 2, float("inf")))[:, None, None]
    )


class _Whole(nn.Module):
    """A module that is not traced into."""

    __module__ = "torch.nn"

    def __init__(self, forward):
        super().__init__()
        self.run = forward

    def forward(self, y):
        return self.run(y)


def _along_tokens(s, y):
    low, high = torch.aminmax(y, dim=1, keepdim=True)
    middle = y.median(1, True)[0] + y.nanmedian(1, True)[0] + y.mode(1, True)[0]
    return y.cummax(1)[0] + y.cummin(1)[0] + middle + low * high


# What states a number of channels, in a layer whose code the rewrite does not see.
INSIDE = {
    "cut": lambda y: torch.cat([y[:, 4:], y[:, :4]], 1),
    "split": lambda y: torch.cat(y.split(4, 1)[::-1], 1),
    "viewed": lambda y: y.view(y.shape[0], 2, 4, *y.shape[2:]).flip(1).flatten(1, 2),
    "padded": lambda y: F.pad(y, (0, 0, 0, 0, 1, 1)).relu() + 1,
    "normalised": lambda y: F.group_norm(y, 8),
    "squeezed": lambda y: y.mean((2, 3), True).squeeze()[..., None, None] * y,
    "repeated": lambda y: y.mean(1, True).repeat(1, 8, 1, 1) * y,
    "repeated in blocks": lambda y: torch.linspace(0, 1, 4).repeat(2)[:, None, None] * y,
    "joined": lambda y: torch.cat([y.mean(1, True)] * 8, 1) * y,
    "filled": lambda y: y.new_ones(8, 1, 1) * y,
}
for name, op in INSIDE.items():
    image(f"{name} inside a layer", lambda s, y: s.m(y), {B: 6}, m=_Whole(op), out=10 if name == "padded" else 8,
          frozen="which is kept whole")  # fmt: skip

# fmt: off
tokens("distances", _distances, {A: 8}, c=linear(8, 8))
tokens("distances to points without channels", lambda s, y: s.c(y) * torch.cdist(y, y.new_ones(1, 2, 8)).mean(
       -1, keepdim=True), {"c.weight": 8}, c=linear(8, 8), frozen="distance from positions that carry no channels")
image("loss of each position", lambda s, y: y * F.smooth_l1_loss(y, s.c(y), reduction="none"), {A: 8, B: 6},
      c=conv(8, 8))
image("mean of a distribution", lambda s, y: torch.distributions.Normal(y, y.exp(), validate_args=True).mean,
      {A: 8, B: 6})
image("mean of a loss", lambda s, y: y * F.mse_loss(y, s.c(y)), {A: 8, B: 6}, fixed=True, c=conv(8, 8))
image("loss of each logit", lambda s, y: F.binary_cross_entropy_with_logits(y, s.c(y).sigmoid(), reduction="none"),
      {A: 8, B: 6}, c=conv(8, 8))
image("sum of a loss", lambda s, y: y * F.mse_loss(y, s.c(y), reduction="sum"), {B: 6}, fixed=True, c=conv(8, 8),
      frozen="sum of a loss")
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
image("unbiased variance over channels", _variance(True), {A: 8, B: 6})
image("unbiased variance over channels and space", _variances, {A: 8, B: 6})
image("unbiased variance over some channels", lambda s, y: y * y[:, 2:].std(1, keepdim=True),
      {A: 2, f"{A}#2": 6, B: 6})
image("unbiased variance inside a layer", lambda s, y: s.m(y), {B: 6}, m=_Whole(lambda y: y / y.std(1, keepdim=True)),
      frozen="unbiased variance over channels inside `m`, which is kept whole")
image("spatial gate", _spatial_gate, {A: 8, B: 6}, g=conv(2, 1, 3))
image("spatial gate by max", _spatial_gate_by_max, {A: 8, B: 6}, g=conv(2, 1, 3))
image("smallest by name", lambda s, y: y * torch.min(y, dim=1, keepdim=True).values, {A: 8, B: 6})
image("place of the largest", lambda s, y: y * y.max(1, keepdim=True)[1], {B: 6}, frozen="whose index is read")
image("largest, and its place by name", lambda s, y: y * y.max(1, True)[0] + y.max(1, True).indices, {B: 6},
      frozen="whose index is read")
net("largest and its place told", lambda s, x: (s.head(s.c(s.a(x))), torch.max(s.a(x), -1)), (torch.zeros(2, 3),),
    (torch.zeros(5, 3),), {"c.weight": 6}, a=linear(3, 8), c=linear(8, 6), head=linear(6, 4),
    frozen="whose index is read")
image("largest inside a layer", lambda s, y: s.m(y), {B: 6}, m=_Whole(lambda y: y * y.max(1, keepdim=True)[0]),
      frozen="whose index is read")
image("over space", _over_space, {A: 8, B: 6})
image("sum over channels", lambda s, y: y * y.sum(1, keepdim=True), {A: 8, B: 6})
image("sum over channels and space", lambda s, y: y * torch.sum(y, dim=(-3, 2))[:, None, None], {A: 8, B: 6})
image("sum over some channels", lambda s, y: y * y[:, :4].sum(1)[:, None], {A: 4, f"{A}#2": 4, B: 6})
image("sum over a cat", lambda s, y: s.c(y) * torch.cat([y, s.c(y)], 1).sum(1, keepdim=True),
      {A: 8, "c.weight": 4, B: 6}, out=4, c=conv(8, 4))
image("sum with a constant", lambda s, y: y * torch.cat([y, s.c(y)], 1).sum(1, keepdim=True), {B: 6}, c=conv(8, 1),
      frozen="sum over channels together with frozen channels")
image("sum within groups", lambda s, y: y * y.unflatten(1, (2, 4)).sum(2).amax(1)[:, None], {A: 4, B: 6})
image("sum by einsum", lambda s, y: y * torch.einsum("bchw,bdhw->bhw", y, s.c(y))[:, None],
      {A: 8, "c.weight": 4, B: 6}, c=conv(8, 4))
image("sum of a parameter", lambda s, y: y * s.p * s.p.sum(0), {"p": 8, B: 6}, p=free(8, 1, 1))
image("sum inside a layer", lambda s, y: s.m(y), {B: 6}, m=_Whole(lambda y: y * y.sum(1, keepdim=True)),
      frozen="sum over channels inside `m`, which is kept whole")
image("product over channels", lambda s, y: y * y.prod(1, keepdim=True), {B: 6}, frozen="prod over channels")
image("unit length over channels", lambda s, y: F.normalize(y, dim=1), {A: 8, B: 6})
image("unit length with a large eps", lambda s, y: F.normalize(y, 3.0, -3, eps=1.5), {A: 8, B: 6})
image("lengths", _lengths, {A: 8, B: 6})
image("length by its operator", lambda s, y: y * torch.ops.aten.norm.ScalarOpt_dim(y, None, [1], True), {A: 8, B: 6})
image("length of everything", lambda s, y: y * torch.norm(y), {A: 8, B: 6}, fixed=True)
image("number of channels that are not zero", lambda s, y: y * y.relu().norm(0, 1, keepdim=True), {B: 6},
      frozen="number of nonzero channels")
image("cosine between maps", lambda s, y: y * F.cosine_similarity(y, s.c(y))[:, None], {A: 8, B: 6}, c=conv(8, 8))
image("unit length over space", lambda s, y: F.normalize(y.flatten(2), dim=2).view(y.shape), {A: 8, B: 6})
image("softmax over channels", lambda s, y: y.softmax(1), {A: 8, B: 6})
image("softmax over channels, as functions", lambda s, y: F.softmax(y, dim=-3) * torch.softmax(y, 1), {A: 8, B: 6})
image("softmax over channels as layers", lambda s, y: s.m(y) * s.l(y), {A: 8, B: 6},
      m=nn.Softmax(1), l=nn.LogSoftmax(-3))
image("softmax of maps as a layer", lambda s, y: s.m(y), {B: 6}, m=nn.Softmax2d(),
      frozen="softmax over channels inside `m`, which is kept whole")
image("softmax over padded channels", lambda s, y: F.pad(y, (0, 0, 0, 0, 0, 2)).softmax(1), {B: 6}, out=10,
      frozen="softmax over channels together with frozen channels")
image("logarithm of softmax over channels", lambda s, y: y.log_softmax(1), {A: 8, B: 6})
image("logarithm of softmax, as functions", lambda s, y: F.log_softmax(y, dim=-3) * torch.log_softmax(y, 1),
      {A: 8, B: 6})
image("logarithm of a sum of exponentials", _logs_of_sums, {A: 8, B: 6})
image("softmax over space", lambda s, y: y.flatten(2).softmax(2).view(y.shape), {A: 8, B: 6})
image("cumulative sum over channels", lambda s, y: y.cumsum(1), {B: 6}, frozen="cumsum over channels")
tokens("running extremes, middle and most frequent along tokens", _along_tokens, {A: 8})
tokens("quantiles along tokens", lambda s, y: y * (y.quantile(0.3, 1, True) + torch.nanquantile(y, 0.7, 1, True)),
       {A: 8})
tokens("quantiles along channels", lambda s, y: s.c(y * y.quantile(0.3, 2, True)), {"c.weight": 6}, out=6,
       c=linear(8, 6), frozen="sort over channels")
image("median over channels", lambda s, y: y * y.median(1, keepdim=True)[0], {B: 6}, frozen="median over channels")
image("cumulative maximum over channels", lambda s, y: y.cummax(1)[0], {B: 6}, frozen="cummax over channels")
image("cumulative sum over space", lambda s, y: y.cumsum(2), {A: 8, B: 6})
tokens("sorted along tokens", lambda s, y: y.sort(1)[0] + y.topk(5, dim=1)[0], {A: 8}, fixed=True)
tokens("sorted along channels", lambda s, y: s.c(y.sort(-1)[0]), {"c.weight": 6}, out=6, c=linear(8, 6),
       frozen="sort over channels")
image("covariances", lambda s, y: y * torch.cov(y[0].flatten(1)).mean(), {B: 6}, fixed=True,
      frozen="inside `cov`, which is kept whole")
for name, apart in (
    ("of", lambda y, points: torch.cdist(y.mT[..., None], points)),
    ("to", lambda y, points: torch.cdist(points, y.mT[..., None])),
):
    tokens(f"distances {name} channels alone", lambda s, y, apart=apart: s.c(y * apart(y, torch.ones(
           5, 1, dtype=y.dtype)).mean((2, 3))[:, None]), {"c.weight": 6}, out=6, c=linear(8, 6),
           frozen="treated as a batch")
tokens("distances that are counted", lambda s, y: s.c(y * torch.cdist(y, y.tanh(), 0).mean((1, 2))[:, None, None]),
       {"c.weight": 6}, out=6, c=linear(8, 6), frozen="distance from positions")
tokens("distances between channels", lambda s, y: y * (torch.cdist(y.mT, torch.ones(4, 5, dtype=y.dtype)).mean(2)
       + torch.cdist(torch.ones(4, 5, dtype=y.dtype), y.mT).mean(1))[:, None], {A: 8}, fixed=True)
image("mean with a new channel", lambda s, y: y * torch.cat([y, y.new_ones(y.shape[0], 1, *y.shape[2:])], 1).mean(
      1, True), {B: 6}, frozen="together with frozen channels")
