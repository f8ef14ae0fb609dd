"""Kernels that are computed: of each sample, or one for all channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..table import A, B, conv, free, image, linear, tokens

HAAR = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).reshape(4, 1, 2, 2) / 2


def _modulated(s, y):
    """A kernel for each sample, scaled by its style and normalised."""
    n, c, h, w = y.shape
    kernel = s.w[None] * (1 + s.style(y.mean((2, 3))))[:, None, :, None, None]
    kernel = kernel * (kernel.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    y = y.reshape(1, n * c, h, w)
    return F.conv2d(y, kernel.reshape(n * s.w.shape[0], c, 3, 3), padding=1, groups=n).reshape(n, -1, h, w)


def _met_by_channels(s, y):
    e = (s.w * 2).expand(4, 2, 1, 1)
    met = (s.c(y).mean((0, 2, 3)) * e[:, :, 0, 0]).amax()
    return F.conv2d(y, e, groups=4) * met


def _one_for_all(s, y):
    return F.conv2d(y, s.k.expand(y.shape[1], 1, 3, 3), padding=1, groups=y.shape[1])


def _one_for_all_by_number(s, y):
    return F.conv2d(y, s.k.repeat(8, 1, 1, 1), None, 1, 1, 1, 8)


def _bands(s, y):
    return F.conv2d(y, s.k.repeat(y.shape[1], 1, 1, 1), stride=2, groups=y.shape[1])


def _and_back(s, y):
    bands = F.conv2d(y, s.k.repeat(8, 1, 1, 1), stride=2, groups=8)
    return F.conv_transpose2d(bands.relu(), s.k.repeat(8, 1, 1, 1), stride=2, groups=8)


def _stored_bands(s, y):
    """Two filters for each channel, and their transposed ones, which the network stores."""
    return F.conv_transpose2d(F.conv2d(y, s.k, stride=2, groups=8).relu(), s.k, stride=2, groups=y.shape[1])


def _of_each_channel(s, y):
    """A kernel for each channel, made from what the sample holds; the batch is one."""
    kernel = s.d(y.mean((0, 2, 3))).view(8, 1, 3, 1)
    return F.conv2d(y, kernel, padding=(1, 0), groups=8)


def _mixed(s, y):
    """The same matrix along the rows of each channel, by batched products."""
    n, c, h, w = y.shape
    rows = y.permute(1, 2, 3, 0).reshape(c, h, -1)
    return torch.bmm(s.m.expand(c, -1, -1), rows).view(c, 8, w, n).permute(3, 0, 1, 2)


def _pairs(s, y):
    """Neighbours along the last axis as complex numbers."""
    return torch.view_as_real(torch.view_as_complex(y.unflatten(3, (-1, 2)).contiguous()) * 2).flatten(3)


def _channels_in_a_circle(s, y):
    return F.pad(y[None], (0, 0, 0, 0, 1, 1), mode="circular")[0]


def _filtered(s, y):
    return torch.fft.irfft2(torch.fft.rfft2(y) * s.w, s=y.shape[-2:])


def _spectral(s, y):
    """Some frequencies of a Fourier neural operator, put into zeros."""
    f, (n, c, h, w) = torch.fft.rfft2(s.c(y)), y.shape
    z = torch.zeros(n, c, h, w // 2 + 1, dtype=f.dtype)
    z[:, :, :2, :2] = f[:, :, :2, :2]
    z[:, :, -2:, :2] = 2 * f[:, :, -2:, :2]
    return torch.fft.irfft2(z, s=(h, w)) + y


def _apart(s, y):
    return y * F.pairwise_distance(y.mean((2, 3)), s.c(y).mean((2, 3)))[:, None, None, None]


ALL = nn.Buffer(torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(0)))
EACH = torch.rand(16, 1, 2, 2, generator=torch.Generator().manual_seed(2))
MATRIX = nn.Buffer(torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1)))


def _turned(y, groups, size):
    """The places of each group are turned by a table, so that only whole groups may merge."""
    return (y.unflatten(1, (groups, size)) * torch.linspace(0.5, 2, size)[:, None, None]).flatten(1, 2)


# fmt: off
image("grouped, computed weight, stored one used too", lambda s, y: F.conv2d(y, s.w * 2, groups=2)
      + F.conv2d(y.relu(), s.w, groups=2), {B: 6}, out=6, w=free(6, 4, 1, 1), frozen="or with a computed weight")
image("grouped transposed, computed weight, stored one used too", lambda s, y: F.conv_transpose2d(y, s.w * 2, groups=2)
      + F.conv_transpose2d(y.relu(), s.w, groups=2), {B: 6}, out=6, w=free(8, 3, 1, 1),
      frozen="or with a computed weight")
image("one number expanded to all channels of a group", lambda s, y: F.conv2d(y, s.k(y.mean((0, 2, 3))).view(
      4, 1, 1, 1).expand(4, 2, 1, 1), groups=4), {A: 4, B: 6}, out=4, k=linear(8, 4))
image("one number expanded to all outputs of a group", lambda s, y: F.conv_transpose2d(y, s.k(y.mean((0, 2, 3))).view(
      8, 1, 1, 1).expand(8, 2, 1, 1), groups=8), {A: 8, B: 6}, out=16, k=linear(8, 8))
image("an expanded kernel that channels met", _met_by_channels, {"w": 4, B: 6}, out=4, w=free(4, 1, 1, 1), c=conv(8, 2),
      frozen="convolution of an axis that was expanded")
image("kernel of the largest numbers", lambda s, y: F.conv2d(y, s.w / s.w.flatten(2).max(2)[0][..., None, None]),
      {A: 8, "w": 5, B: 6}, out=5, w=free(5, 8, 3, 3))
tokens("channels as length, cut", lambda s, y: s.c(s.k(y.mean(1)[:, None])), {"c.weight": 5}, out=5,
       k=nn.Conv1d(1, 1, 3), c=linear(6, 5), frozen="convolved over")
image("a kernel modulated for each sample", _modulated, {"w": 6, "w#2": 8, B: 6}, out=6, w=free(6, 8, 3, 3),
      style=linear(8, 8))
image("one kernel for all channels", _one_for_all, {A: 8, B: 6}, k=ALL)
image("one kernel for all channels, by number", _one_for_all_by_number, {A: 8, B: 6}, k=ALL)
tokens("a weight with an update of low rank", lambda s, y: F.linear(y, s.w + 0.5 * s.u @ s.v), {"w": 8, A: 8},
       w=free(8, 8), u=free(8, 4), v=free(4, 8), frozen="summed inside a computed weight")
image("frequencies put into zeros", _spectral, {A: 8, B: 6}, c=conv(8, 8))
image("wavelets", _bands, {A: 8, B: 6}, out=32, k=nn.Buffer(HAAR))
image("wavelets and back", _and_back, {A: 8, B: 6}, k=nn.Buffer(HAAR))
image("a filter that is stored", lambda s, y: F.conv2d(y, s.k[:8], groups=8), {A: 8, B: 6}, k=nn.Buffer(EACH[:8]))
image("filters of four groups that are stored", lambda s, y: F.conv2d(y, s.k, groups=4), {B: 6},
      k=nn.Buffer(EACH.reshape(8, 2, 2, 2)), frozen="a buffer from which a table is computed")
image("filters that are stored, and back", _stored_bands, {A: 8, B: 6}, k=nn.Buffer(EACH))
image("a kernel computed for each channel", _of_each_channel, {A: 8, B: 6}, d=linear(8, 24))
image("one matrix for all channels", _mixed, {A: 8, B: 6}, fixed=True, m=MATRIX)
image("padded in a circle", lambda s, y: F.pad(y, (1, 2, 0, 1), mode="circular"), {A: 8, B: 6})
image("convolved in a circle", lambda s, y: s.c(y), {A: 8, "c.weight": 5, B: 6}, out=5,
      c=nn.Conv2d(8, 5, 3, padding=1, padding_mode="circular"))
image("a layer that pads in a circle", lambda s, y: s.c(y), {A: 8, B: 6}, c=nn.CircularPad2d(1))
image("channels padded in a circle", _channels_in_a_circle, {B: 6}, out=10, frozen="padded by other positions")
image("turned", lambda s, y: torch.rot90(y, 1, (2, 3)), {A: 8, B: 6})
image("channels turned", lambda s, y: torch.rot90(y, 2, (1, 3)), {B: 6}, frozen="treated as space")
image("unpooled", lambda s, y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2), {A: 8, B: 6})
image("filtered in frequencies", _filtered, {"w": 8, B: 6}, w=free(8, 1, 1))
image("Fourier transform of channels", lambda s, y: torch.fft.fft(y, dim=1).real, {B: 6},
      frozen="Fourier transform over")
image("space as complex numbers", _pairs, {A: 8, B: 6})
image("distance of two", _apart, {A: 8, B: 6}, c=conv(8, 8))
image("volume padded by its border", lambda s, y: F.pad(y, (1, 1, 1, 1, 0, 0), mode="replicate"), {B: 6},
      frozen="treated as space")
image("windows of space", lambda s, y: y.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)), {A: 8, B: 6})
image("windows of channels", lambda s, y: y.unfold(1, 2, 1).amax(-1), {B: 6}, out=7, frozen="treated as space")
tokens("a line transposed", lambda s, y: F.conv_transpose1d(y.mT, s.w, groups=8).mT, {"w": 8}, w=free(8, 1, 1))
image("a volume transposed", lambda s, y: F.conv_transpose3d(y[:, :, None], s.w, groups=8)[:, :, 0], {"w": 8, B: 6},
      w=free(8, 1, 1, 2, 2))
image("a kernel of rows that are channels", lambda s, y: y * s.k(y.mean(3)[:, None]).amax((1, 2, 3))[:, None, None,
      None], {"k.weight": 2, B: 6}, k=nn.Conv2d(1, 2, (3, 1)), frozen="convolved over")
image("a kernel of channels", lambda s, y: y * F.conv2d(y.mean(1, True), y.mean((0, 2, 3)).view(1, 1, 8, 1)).amax(
      (1, 2, 3))[:, None, None, None], {B: 6}, fixed=True, frozen="a kernel axis of a computed weight")
image("a computed kernel beside channels", lambda s, y: F.conv2d(y.transpose(1, 2), s.w(y.mean(
      (0, 2, 3))).view(8, 8, 1, 1)).transpose(1, 2), {"w.weight": 8, B: 6}, fixed=True, w=linear(8, 64),
      frozen="a kernel axis of a computed weight")
for name, out, kernel in (
    ("padded", 10, nn.Conv2d(8, 8, 1, padding=1)),
    ("with a stride", 4, nn.Conv2d(8, 8, 1, stride=2)),
    ("transposed", 8, nn.ConvTranspose2d(8, 8, 1)),
    ("transposed to one more", 9, nn.ConvTranspose2d(8, 8, 1, dilation=2, output_padding=1)),
):
    image(f"one by one beside channels, {name}", lambda s, y: s.k(y.transpose(1, 2)).transpose(1, 2),
          {A: 8, "k.weight": 8, B: 6} if out == 8 else {"k.weight": 8, B: 6}, out=out, fixed=True, k=kernel,
          frozen="" if out == 8 else "convolved over")
image("groups turned by a table", lambda s, y: _turned(s.d(_turned(y, 4, 5)), 4, 6), {A: 4, B: 6}, width=20, out=24,
      d=conv(20, 24, groups=4))
image("unpooled without samples", lambda s, y: F.max_unpool2d(*F.max_pool2d(y[0], 2, return_indices=True), 2)[None] + y,
      {A: 8, B: 6})
