"""Sums of products with a weight: its columns read, its rows are the result."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from .table import A, B, conv, free, image, linear, net, tokens

COMPUTED = "read by a weight that is computed, not stored"


def _standardised(s, y):
    mean, var = s.w.mean((1, 2, 3), keepdim=True), s.w.var((1, 2, 3), keepdim=True, unbiased=False)
    return F.conv2d(y, (s.w - mean) / (var + 1e-5).sqrt())


def _normed(w):
    """Rows of length one, times the square root of their size, as EDM2 forces them."""
    rows = w.reshape(w.shape[0], -1)
    return (rows / rows.norm(dim=1, keepdim=True) * (rows.numel() / len(rows)) ** 0.5).reshape(w.shape)


def _by_its_sizes(s, y):
    assert s.w.dim() == 4 and s.w.shape[1] == y.shape[1]
    weight = _normed(s.w)
    y = F.conv2d(y, weight / 2, padding=weight.shape[-1] // 2).to(s.w.dtype)
    return y.flatten(2).view(len(y), s.w.shape[0], *y.shape[2:])


def _divided(s, y):
    """Divisive normalisation (GDN), whose weight is a matrix that is computed and viewed."""
    channels = y.shape[1]
    return y * torch.rsqrt(F.conv2d(y**2, (s.w**2).reshape(channels, channels, 1, 1), s.v**2 + 1))


def _line(s, x):
    return s.head(s.b(s.a(x).relu()).mean(2))


def _volume(s, x):
    return s.head(s.b(s.a(x).relu()).mean((2, 3, 4)))


class _Standardised(nn.Conv2d):
    def forward(self, x):
        return _standardised_layer(self, x)


def _standardised_layer(s, x):
    weight = s.weight - s.weight.mean((1, 2, 3), keepdim=True)
    return F.conv2d(x, weight, s.bias, s.stride, s.padding, s.dilation, s.groups)


def _kernels_of_each_image(s, y):
    n, c, h, w = y.shape
    kernels = (s.r(y.mean((2, 3))).sigmoid() @ s.w).view(n * 8, c, 1, 1)
    return F.conv2d(y.reshape(1, n * c, h, w), kernels, groups=n).view(n, 8, h, w)


def _transposed_kernels_of_each_image(s, y):
    (n, c, h, w), seen = y.shape, y.mean((2, 3))
    kernels = s.w * s.r(seen).view(n, c, 1, 1, 1)
    bias = s.v(seen).reshape(-1)
    z = F.conv_transpose2d(y.reshape(1, n * c, h, w), kernels.reshape(n * c, 6, 3, 3), bias, 2, 1, groups=n)
    return z.view(n, -1, *z.shape[2:])


def _two_kernels_of_each_sample(s, y):
    n, c, h, w = y.shape
    z = y.mean((2, 3))
    kernels = torch.cat([s.p(z), s.q(z)], 1)[:, :, None] * s.r(z)[:, None]
    return F.conv2d(y.reshape(1, n * c, h, w), kernels.reshape(n * 6, 4, 1, 1), groups=2 * n).view(n, 6, h, w)


def _two_kernels_of_each_sample_open(s, y):
    n, _, h, w = y.shape
    kernels = s.r(y.mean((2, 3)))[:, None].expand(-1, 6, -1)
    return F.conv2d(y.reshape(1, -1, h, w), kernels.reshape(-1, 4, 1, 1), groups=2 * n).view(n, 6, h, w)


def _depthwise_images_side_by_side(s, y):
    n, c, h, w = y.shape
    kernels = s.w.repeat(n, 1, 1, 1)
    return F.conv2d(y.reshape(1, n * c, h, w), kernels, padding=1, groups=n * c).view(n, c, h, w)


def _depthwise_kernels_of_each_image(s, y):
    n, c, h, w = y.shape
    kernels = s.k(y.mean((2, 3))).view(n * c, 1, 3, 3)
    return F.conv2d(y.reshape(1, n * c, h, w), kernels, padding=1, groups=n * c).view(n, c, h, w)


def _low_rank_added(s, y):
    return s.c._conv_forward(y, s.c.weight + (s.p @ s.q).view(s.c.weight.shape), s.c.bias)


class _Added(nn.Module):
    """A product of two small weights, added to a large one."""

    def __init__(self):
        super().__init__()
        self.p, self.q = free(5, 1), free(1, 72)

    def forward(self, weight):
        return weight + (self.p @ self.q).view_as(weight)


# fmt: off
image("kernel, stride, no bias", lambda s, y: s.c(y), {A: 8, B: 6, "c.weight": 5},
      c=conv(8, 5, 3, stride=2, bias=False), out=5)
image("two kernels of each sample", _two_kernels_of_each_sample, {A: 4, "p.weight": 3, B: 6}, out=6, p=linear(8, 3),
      q=linear(8, 3), r=linear(8, 4))
image("two kernels of each sample, open", _two_kernels_of_each_sample_open, {A: 4, B: 6}, out=6, r=linear(8, 4))
image("one by one beside channels", lambda s, y: s.k(y.transpose(1, 2)).transpose(1, 2), {A: 8, "k.weight": 8, B: 6},
      fixed=True, k=conv(8, 8))
image("depthwise", lambda s, y: s.d(y), {A: 8, B: 6}, d=conv(8, 8, 3, groups=8))
image("depth multiplier", lambda s, y: s.d(y), {A: 8, B: 6}, out=16, d=conv(8, 16, 3, groups=8))
image("one output per group", lambda s, y: s.d(y), {A: 4, B: 6}, out=4, d=conv(8, 4, 3, groups=4))
image("grouped", lambda s, y: s.d(y), {A: 4, B: 6, "d.weight": 6}, out=12, d=conv(8, 12, 3, groups=2))
image("grouped twice", lambda s, y: s.e(s.d(y)), {A: 4, B: 6, "d.weight": 4, "e.weight": 3}, out=6,
      d=conv(8, 8, 3, groups=2), e=conv(8, 6, groups=2))
image("one channel read", lambda s, y: s.d(y[:, :1]), {A: 7, B: 6, "d.weight": 8},
      frozen="one channel is sliced out", d=conv(1, 8, 3))
image("transposed", lambda s, y: s.d(y), {A: 8, B: 6, "d.weight": 5}, out=5, d=nn.ConvTranspose2d(8, 5, 2, 2))
image("grouped transposed", lambda s, y: s.d(y), {A: 4, "d.weight": 3, B: 6}, out=6,
      d=nn.ConvTranspose2d(8, 6, 2, 2, groups=2))
image("grouped transposed of positions", lambda s, y: y * s.d(y.mean(1)[..., None]).amax((1, 2, 3), True),
      {A: 8, B: 6}, fixed=True, d=nn.ConvTranspose2d(8, 8, 1, groups=2), frozen="grouped convolution of an input")
image("grouped transposed, one output per group", lambda s, y: s.d(y), {A: 2, B: 6}, out=4,
      d=nn.ConvTranspose2d(8, 4, 2, 2, groups=4))
image("grouped transposed twice", lambda s, y: s.e(s.d(y).relu()), {A: 4, "d.weight": 4, "e.weight": 3, B: 6}, out=6,
      d=nn.ConvTranspose2d(8, 8, 2, 2, groups=2, bias=False), e=nn.ConvTranspose2d(8, 6, 3, groups=2))
image("depthwise transposed", lambda s, y: s.d(y), {A: 8, B: 6}, d=nn.ConvTranspose2d(8, 8, 2, 2, groups=8))
image("depthwise transposed, several outputs", lambda s, y: s.d(y), {A: 8, B: 6}, out=24,
      d=nn.ConvTranspose2d(8, 24, 2, 2, groups=8))
image("depthwise transposed beside its input", lambda s, y: s.d(y) + y, {A: 8, B: 6},
      d=nn.ConvTranspose2d(8, 8, 3, padding=1, groups=8))
image("functional depthwise transposed", lambda s, y: F.conv_transpose2d(y, s.w, None, 1, 0, 0, 8), {"w": 8, B: 6},
      w=free(8, 1, 2, 2))
image("grouped transposed, kernels computed", lambda s, y: F.conv_transpose2d(
      y, s.k(y.mean((0, 2, 3))).view(8, 3, 1, 1), groups=2), {A: 4, B: 6}, out=6, k=linear(8, 24))
image("functional grouped, wide input", lambda s, y: F.conv2d(y.cumsum(1), s.w, groups=2), {"w": 3, B: 6}, out=6,
      w=free(6, 4, 1, 1), frozen="cumsum over channels")
image("functional grouped transposed", lambda s, y: F.conv_transpose2d(y, s.w, None, 2, 0, 0, 2), {A: 4, "w": 3, B: 6},
      out=6, w=free(8, 3, 2, 2))
image("padding of another mode", lambda s, y: s.c(y), {A: 8, B: 6, "c.weight": 5},
      c=conv(8, 5, 3, padding_mode="reflect"), out=5)
net("line", _line, (torch.zeros(2, 3, 9),), (torch.zeros(3, 3, 12),), {A: 8, B: 6},
    a=nn.Conv1d(3, 8, 3), b=nn.Conv1d(8, 6, 3), head=linear(6, 4))
net("volume", _volume, (torch.zeros(2, 3, 5, 5, 5),), (torch.zeros(1, 3, 6, 5, 7),), {A: 8, B: 6},
    a=nn.Conv3d(3, 8, 3), b=nn.Conv3d(8, 6, 3), head=linear(6, 4))
image("channels as length", lambda s, y: y * s.k(y.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None], {B: 6},
      k=nn.Conv1d(1, 1, 3, padding=1), frozen="convolved over")
image("functional", lambda s, y: F.conv2d(y, s.w, s.v), {A: 8, B: 6, "w": 5}, out=5, w=free(5, 8, 1, 1), v=free(5))
image("functional depthwise", lambda s, y: F.conv2d(y, s.w, None, 1, 1, 1, 8), {"w": 8, B: 6}, w=free(8, 1, 3, 3))
image("one kernel expanded to all channels", lambda s, y: F.conv2d(y, s.w.expand(8, 1, 3, 3), groups=8), {A: 8, B: 6},
      w=free(1, 1, 3, 3))
image("functional depthwise by keyword", lambda s, y: F.conv2d(y, s.w, padding=1, groups=y.shape[1]),
      {"w": 8, B: 6}, w=free(8, 1, 3, 3))
image("functional grouped", lambda s, y: F.conv2d(y, s.w, groups=2), {A: 4, "w": 3, B: 6}, out=6, w=free(6, 4, 1, 1))
image("computed weight", _standardised, {A: 8, "w": 5, B: 6}, out=5, w=free(5, 8, 3, 3))
image("computed weight in a layer", lambda s, y: s.c(y), {A: 8, "c.weight": 5, B: 6}, out=5, c=_Standardised(8, 5, 3))
image("computed weight, depthwise", lambda s, y: s.c(y), {A: 8, B: 6}, c=_Standardised(8, 8, 3, groups=8))
image("computed weight, grouped", lambda s, y: s.c(y), {A: 4, "c.weight": 3, B: 6}, out=6,
      c=_Standardised(8, 6, 3, groups=2))
image("computed weight, read twice", lambda s, y: s.c(y) + s.c(y.relu()), {A: 8, "c.weight": 5, B: 6}, out=5,
      c=_Standardised(8, 5, 3))
image("computed weight whose sizes are read", _by_its_sizes, {A: 8, "w": 5, B: 6}, out=5, w=free(5, 8, 3, 3))
image("computed weight that is viewed", lambda s, y: F.conv2d(y, (s.w * 2).view(5, 8, 1, 1)), {A: 8, "w": 5, B: 6},
      out=5, w=free(5, 8))
image("divided by all channels", _divided, {"w": 8, B: 6}, w=free(8, 8), v=free(8))
image("scaled columns", lambda s, y: F.conv2d(y, s.w * s.v), {A: 8, "w": 5, B: 6}, out=5, w=free(5, 8, 1, 1),
      v=free(1, 8, 1, 1))
image("scaled weight, transposed", lambda s, y: F.conv_transpose2d(y, s.w * 2), {A: 8, "w": 5, B: 6}, out=5,
      w=free(8, 5, 2, 2))
image("weight norm", lambda s, y: s.c(y), {A: 8, "c.bias": 5, B: 6}, out=5,
      c=parametrizations.weight_norm(conv(8, 5, 3)))
image("weight norm of a linear layer", lambda s, y: s.f(y.mean((2, 3)))[:, :, None, None], {A: 8, "f.bias": 5, B: 6},
      out=5, f=parametrizations.weight_norm(linear(8, 5)))
image("spectral norm", lambda s, y: s.c(y), {A: 8, "c.bias": 5, B: 6}, out=5,
      c=parametrizations.spectral_norm(conv(8, 5, 3)))
image("spectral norm by a hook", lambda s, y: s.c(y), {A: 8, "c.bias": 5, B: 6}, out=5,
      c=torch.nn.utils.spectral_norm(conv(8, 5, 3)))
image("vectors multiplied", lambda s, y: y * torch.vdot(s.p, s.q), {"p": 8, A: 8, B: 6}, p=free(8), q=free(8))
image("computed weight, stored one used too", lambda s, y: F.conv2d(y, s.w * 2) + F.conv2d(y.relu(), s.w),
      {"w": 5, B: 6}, out=5, w=free(5, 8, 1, 1), frozen=COMPUTED)
image("weights that trade places", lambda s, y: F.conv2d(y, s.w.flip(0) * 2), {A: 8, B: 6}, out=5,
      w=free(5, 8, 1, 1), frozen="do not follow from stored rows")
image("linear after flatten", lambda s, y: s.f(y.flatten(1))[:, :, None, None], {A: 8, "f.weight": 5, B: 6}, out=5,
      fixed=True, f=linear(8 * 64, 5))
image("linear after pooling to 2x2", lambda s, y: s.f(F.adaptive_avg_pool2d(y, 2).flatten(1))[:, :, None, None],
      {A: 8, "f.weight": 5, B: 6}, out=5, f=linear(8 * 4, 5))
image("linear on the last axis", lambda s, y: s.f(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
      {A: 8, "f.weight": 5, B: 6}, out=5, f=linear(8, 5))
tokens("functional line", lambda s, y: F.conv1d(y.mT, s.w, groups=2).mT, {A: 4, "w": 3}, out=6, w=free(6, 4, 1))
image("functional volume", lambda s, y: F.conv3d(y[:, :, None], s.w, None, 1, 0, 1, 8)[:, :, 0], {"w": 8, B: 6},
      w=free(8, 1, 1, 3, 3))
tokens("functional linear", lambda s, y: F.linear(y, s.w, s.v), {A: 8, "w": 6}, out=6, w=free(6, 8), v=free(6))
tokens("product with a parameter", lambda s, y: y @ s.w + s.v, {A: 8, "w": 6}, out=6, w=free(8, 6), v=free(6))
tokens("parameter on the left", lambda s, y: (s.w @ y.mT).mT, {A: 8, "w": 6}, out=6, w=free(6, 8))
tokens("parameter turned over", lambda s, y: torch.matmul(y, s.w.t()), {A: 8, "w": 6}, out=6, w=free(6, 8))
tokens("addmm", lambda s, y: torch.addmm(s.v, y.flatten(0, 1), s.w, beta=2, alpha=3), {A: 8, "w": 6}, out=6,
       w=free(8, 6), v=free(6))
def _halves(y):
    """The rows of tokens, divided in two groups."""
    return (torch.arange(1, 3) * y.shape[0] * y.shape[1] // 2).int()


def experts(s, y):
    """A mixture of experts: each token is multiplied by the matrices of its own."""
    rows = y.flatten(0, 1)
    expert = s.r(rows).argmax(-1)
    order = expert.argsort()
    offsets = (expert[:, None] == torch.arange(len(s.up))).sum(0).cumsum(0).int()
    inner = F.grouped_mm(rows[order], s.up, offs=offsets).relu()
    outer = F.grouped_mm(inner, s.down, offs=offsets)
    return rows.index_add(0, order, outer).view(y.shape)


tokens("matrix times vector", lambda s, y: (y.mean((0, 1)) @ s.w).relu() + torch.mv(s.u, y.mean((0, 1))),
       {A: 8, "w": 6}, out=6, fixed=True, w=free(8, 6), u=free(6, 8))
tokens("a matrix per head", lambda s, y: (y.unflatten(-1, (2, 4)).mT.mT.transpose(1, 2) @ s.w).transpose(1,
       2).flatten(2),
       {A: 4, "w": 6}, out=12, w=free(2, 4, 6))
tokens("einsum with a parameter", lambda s, y: torch.einsum("bnc,ce->bne", y, s.w), {A: 8, "w": 6}, out=6, w=free(8, 6))
tokens("einsum with a matrix per head", lambda s, y: torch.einsum("bnhd,hde->bnhe", y.unflatten(-1, (2, 4)),
       s.w).flatten(2),
       {A: 4, "w": 6}, out=12, w=free(2, 4, 6))
tokens("flattened weight", lambda s, y: F.linear(y, s.w.flatten(1)), {A: 8, "w": 6}, out=6, w=free(6, 8, 1))
image("weights put together", lambda s, y: F.conv2d(y, torch.cat([s.w, s.v])), {"w": 5, "v": 4, B: 6}, out=9,
      w=free(5, 8, 1, 1), v=free(4, 8, 1, 1), frozen=COMPUTED)
image("weight flattened with its kernel", lambda s, y: F.linear(y.flatten(1), s.w.flatten(1))[:, :, None, None],
      {A: 8, "w": 5, B: 6}, out=5, fixed=True, w=free(5, 8, 8, 8))
tokens("weight used twice over", lambda s, y: F.linear(torch.cat([y, y.relu()], -1), s.w.repeat(1, 2)), {A: 8, "w": 6},
       out=6, w=free(6, 8))
image("weight read and averaged", lambda s, y: F.conv2d(y, s.w) + s.w.flatten(1).mean(1)[:, None, None],
      {"w": 5, "w#2": 8, B: 6}, out=5, w=free(5, 8, 3, 3))
tokens("weight read by name and averaged", lambda s, y: F.linear(input=y, weight=s.w) + s.w.mean(1), {"w": 6}, out=6,
       w=free(6, 8), frozen="read by columns and used by rows")
net("embedding", lambda s, i: s.head(s.e(i)), (torch.zeros(2, 5, dtype=torch.long),), (torch.zeros(3, 4,
    dtype=torch.long),),
    {"e.weight": 8}, e=nn.Embedding(10, 8), head=linear(8, 4), frozen="rows of a table")
tokens("an embedding for each channel", lambda s, y: F.embedding((y > 0).long(), s.e).amax(2), {A: 8, "e": 6}, out=6,
       e=free(2, 6), frozen="rows of a table")
image("a kernel of each image", _kernels_of_each_image, {"w": 8, "r.weight": 2, B: 6}, out=8, r=linear(8, 2),
      w=free(2, 64))
image("depthwise images side by side", _depthwise_images_side_by_side, {"w": 8, B: 6}, w=free(8, 1, 3, 3))
net("one of a number of classes", lambda s, i: s.head(s.a(F.one_hot(i, 10).to(s.a.weight.dtype)).relu()),
    (torch.arange(10).view(2, 5),), (torch.zeros(3, 4, dtype=torch.long),), {A: 8}, a=linear(10, 8), head=linear(8, 4))
net("bags of embeddings", lambda s, i: s.head(F.embedding_bag(i, s.e, mode="max")),
    (torch.zeros(2, 5, dtype=torch.long),), (torch.zeros(3, 4, dtype=torch.long),), {"e": 8}, e=free(10, 8),
    head=linear(8, 4), frozen="rows of a table")
tokens("bags picked by channels", lambda s, y: F.embedding_bag((9 * y[:, 0]).long() % 10, s.e)[:, None] * s.c(y),
       {"e": 6}, out=6, e=free(10, 6), c=linear(8, 6), frozen="pick the rows of a bag")
net("layer of bags of embeddings", lambda s, i: s.head(s.e(i)),
    (torch.zeros(2, 5, dtype=torch.long),), (torch.zeros(3, 4, dtype=torch.long),), {"e.weight": 8},
    e=nn.EmbeddingBag(10, 8), head=linear(8, 4), frozen="rows of a table")
net("bags of embeddings whose table classifies", lambda s, i: F.linear(s.head(F.embedding_bag(i, s.e)), s.e),
    (torch.zeros(2, 5, dtype=torch.long),), (torch.zeros(3, 4, dtype=torch.long),), {"e": 8, "head.0.weight": 6},
    e=free(10, 8), head=nn.Sequential(linear(8, 6), linear(6, 8)), frozen="rows of a table")
net("bags of weighted embeddings",
    lambda s, i, w: s.head(F.embedding_bag(i, s.e, mode="sum", per_sample_weights=s.w(w))),
    (torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 6)), (torch.zeros(3, 5, dtype=torch.long), torch.zeros(3, 6)),
    {"e": 8}, e=free(10, 8), w=linear(6, 5), head=linear(8, 4), frozen="rows of a table")
image("a transposed kernel of each image", _transposed_kernels_of_each_image, {"w": 8, "w#2": 6, B: 6}, out=6,
      r=linear(8, 8), v=linear(8, 6), w=free(8, 6, 3, 3))
image("a depthwise kernel of each image", _depthwise_kernels_of_each_image, {A: 8, B: 6}, k=linear(8, 72))
image("product of small weights added to a kernel", _low_rank_added, {A: 8, "p": 5, B: 6}, out=5,
      c=conv(8, 5, 3), p=free(15, 2), q=free(2, 24))
image("product of small weights added in a parametrization", lambda s, y: s.c(y), {A: 8, "c.bias": 5, B: 6}, out=5,
      c=parametrize.register_parametrization(conv(8, 5, 3), "weight", _Added()))
tokens("bilinear layer", lambda s, y: s.f(y, s.q(y)), {A: 8, "q.weight": 7, "f.weight": 6}, out=6, q=linear(8, 7),
       f=nn.Bilinear(8, 7, 6))
tokens("addmv", lambda s, y: torch.addmv(s.v, s.w, y.mean((0, 1)))[None], {A: 8, "v": 6}, out=6, fixed=True,
       v=free(6), w=free(6, 8))
net("grouped transposed convolution of an image", lambda s, x: s.head(s.b(s.a(x)).mean((2, 3))),
    (torch.zeros(2, 4, 6, 6),), (torch.zeros(3, 4, 5, 8),), {B: 6}, a=nn.ConvTranspose2d(4, 8, 2, groups=2),
    b=conv(8, 6), head=linear(6, 4), frozen="grouped convolution of an input without channels")
tokens("matrix by vector", lambda s, y: torch.mv(y[0], s.v)[None, :, None] + y, {A: 8}, fixed=True, v=free(8))
net("experts of tokens", lambda s, x: s.head(experts(s, s.a(x))), (torch.zeros(2, 5, 8),), (torch.zeros(3, 4, 8),),
    {"up": 8, "down": 8}, a=linear(8, 8), r=linear(8, 3), up=free(3, 8, 8), down=free(3, 8, 8), head=linear(8, 4),
    frozen="rows or columns that offsets divide into groups")
tokens("product of groups of columns", lambda s, y: F.grouped_mm(s.w, y.flatten(0, 1).T, offs=_halves(y)).T[None],
       {A: 8, "w": 6}, out=6, w=free(2, 6, 8), frozen="rows or columns that offsets divide into groups")
tokens("sums of groups", lambda s, y: F.grouped_mm(s.c(y).flatten(0, 1).T, y.flatten(0, 1), offs=_halves(y)).amax(1),
       {A: 8, "c.weight": 8}, c=linear(8, 8))
image("a kernel that another one reads", lambda s, y: F.conv2d(y, s.w) + F.conv2d(s.w, s.k).mean(0),
      {"w": 6, "w#2": 8, B: 6}, out=6, w=free(6, 8, 1, 1), k=free(6, 8, 1, 1))
tokens("product of groups of one size", lambda s, y: F.grouped_mm(y.unflatten(-1, (2, 4)).flatten(0, 1).transpose(0, 1),
       s.w).transpose(0, 1).flatten(1)[None], {A: 4, "w": 8}, out=16, w=free(2, 4, 8))
