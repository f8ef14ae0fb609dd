"""Operators that sample images: a box is cut out of every channel alike, and a flow warps all of them."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from .table import A, B, conv, free, image, linear, net

BOXES = torch.tensor([[0.0, 1.0, 1.0, 5.0, 6.0], [1.0, 0.0, 2.0, 4.0, 7.0], [0.0, 3.0, 3.0, 3.5, 3.5]])
GRID = torch.linspace(-1, 1, 32).view(1, 4, 4, 2)


def _cut(s, y):
    return torch.ops.torchvision.roi_align(y, BOXES.to(y), 0.5, 3, 2, 2, False).mean((2, 3), keepdim=True)[:1] + y


def _warped(s, y):
    return F.grid_sample(y, s.g(y).tanh().permute(0, 2, 3, 1), align_corners=False)


# Channels stand where the operator has space.
AS_SPACE = {
    "cut": lambda z: torch.ops.torchvision.roi_align(z, BOXES[::2].to(z), 0.5, 3, 2, 2, False),
    "warped": lambda z: F.grid_sample(z, GRID.to(z).expand(len(z), -1, -1, -1), align_corners=False),
    "unpooled": lambda z: F.max_unpool2d(z, torch.arange(64).view(1, 1, 8, 8).expand(len(z), 8, 8, 8), 1),
    "unfolded": lambda z: F.unfold(z, 3),
    "unshuffled": lambda z: F.pixel_unshuffle(z[0], 2),
}
for name, dim in itertools.product(AS_SPACE, (2, 3)):
    image(f"{name} over channels, axis {dim}",
          lambda s, y, op=AS_SPACE[name], dim=dim: y * op(y.transpose(1, dim)).amax(), {B: 6}, fixed=True,
          frozen="treated as space")  # fmt: skip

image("warped by a flow", _warped, {A: 8, B: 6}, g=conv(8, 2), frozen="treated as space")
image("boxes cut out", _cut, {A: 8, B: 6})


def _deformed(groups):
    def op(s, y):
        offset, mask = s.o(y), s.m(y).sigmoid()
        return deform_conv2d(y, offset, s.w, s.v, padding=1, mask=mask)

    return op, {"o": conv(8, 18 * groups, 3), "m": conv(8, 9 * groups, 3), "w": free(5, 8, 3, 3), "v": free(5)}


for groups, width in ((1, 8), (2, 4)):
    op, layers = _deformed(groups)
    image(f"deformed convolution, {groups} offsets", op, {A: width, "w": 5, B: 6}, out=5, frozen="offsets and masks",
          **layers)  # fmt: skip
image("deformed convolution in groups", lambda s, y: deform_conv2d(y, s.o(y), s.w, padding=1), {B: 6}, out=6,
      o=conv(8, 18, 3), w=free(6, 4, 3, 3), frozen="a deformed convolution in groups")  # fmt: skip
net("deformed over channels", lambda s, x: s.head(s.b(deform_conv2d(s.a(x).transpose(1, 2), 0 * x[:, :2], s.w)).mean(
    (2, 3))), (torch.zeros(2, 3, 8, 8),), None, {B: 6}, a=conv(3, 8), w=free(5, 8, 1, 1), b=conv(5, 6),
    head=linear(6, 4), frozen="treated as space")  # fmt: skip
for name, values, places in (
    ("values", lambda y: y[0].transpose(0, 1), lambda y: torch.arange(64).view(1, 8, 8).repeat(8, 1, 1)),
    (
        "places",
        lambda y: torch.ones(8, 8, 8, dtype=y.dtype) * y.mean(),
        lambda y: (9 * y[0].abs().transpose(0, 1)).long() % 64,
    ),
):
    image(f"{name} unpooled over channels of one image", lambda s, y, values=values, places=places: y + F.max_unpool2d(
          values(y), places(y), 1).transpose(0, 1)[None], {B: 6}, fixed=True, frozen="treated as space")  # fmt: skip
