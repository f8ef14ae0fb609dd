"""Position by position: what meets is one channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .table import A, B, conv, free, image, linear, net

NO = "meets positions that carry no channels"
RANDOM = "random numbers, one for each position"
STEP = "a slice of channels with a step, changed in place"


def _se(s, y):
    return y * s.e(F.silu(s.d(y.mean((2, 3))))).sigmoid()[:, :, None, None]


def _many(s, y):
    y = F.hardswish(F.mish(y)) + F.gelu(y) - F.elu(y) / 2 + F.softplus(y).sqrt() + F.silu(y) ** 2
    return F.logsigmoid(y) + F.threshold(y, 0.1, 2.0) + F.leaky_relu(y).clamp(-3, 3) + F.relu6(1 - y)


def _in_place(s, y):
    y.relu_().mul_(2)
    y += s.c(y)
    return F.hardswish(F.gelu(y), inplace=True).clamp_(max=4)


def _in_place_on_every_other(s, y):
    y = y * 1.5
    y[:, ::2].tanh_()
    return y


def _in_place_on_views(s, y):
    y = y * 1.5
    s.r(y.movedim(1, -1)[..., 1::2])
    some = y[:, ::2]
    some.mul_(2).sub_(1)
    some += 1
    return y + some.sum(1, keepdim=True)


def _in_place_after_views(s, y):
    y = y * 1.5
    y[:, ::2] += y[:, 1::2].tanh()
    return y.mul_(2)


def _unseen(y, write):
    write(y[:, ::2])
    return y


def _copies_of_a_step(s, y):
    some = y[:, ::2]
    again = some.contiguous()
    return torch.cat([some, again.tanh_(), some + again], 1)


def _in_place_after_a_step(s, y):
    y = y * 1.5
    some = y[:, ::2]
    y.tanh_()
    return some * 2


def _in_place_on_some(s, y):
    y[:, :4].mul_(2)
    return y


def _zeroed(s, y):
    y[:, 4:].zero_()
    return y


def _in_inference_mode(s, x):
    y = s.a(x)
    with torch.inference_mode():
        return s.head(F.prelu(y, s.p))


# fmt: off
image("relu", lambda s, y: y.relu(), {A: 8, B: 6})
image("many activations", _many, {A: 8, B: 6})
image("leaky at random", lambda s, y: F.rrelu(F.rrelu(y), inplace=True), {A: 8, B: 6})
image("leaky at random always", lambda s, y: y + 0 * F.rrelu(y, training=True), {B: 6}, frozen=RANDOM)
image("dropout always", lambda s, y: y + 0 * torch.native_dropout(y, 0.5, True)[0], {B: 6}, frozen=RANDOM)
image("dropout never", lambda s, y: torch.native_dropout(y, 0.5, False)[0], {A: 8, B: 6})
image("random numbers", lambda s, y: y + 0 * torch.randn_like(y).mean(), {B: 6}, frozen=RANDOM)
image("random numbers put into a place", lambda s, y: y + 0 * torch.empty_like(y).uniform_().mean(), {B: 6},
      frozen=RANDOM)
image("drawn around channels", lambda s, y: y + 0 * torch.normal(y, 1.0), {B: 6}, frozen=RANDOM)
image("drawn by channels", lambda s, y: y + 0 * torch.bernoulli(y.sigmoid()), {B: 6}, frozen=RANDOM)
image("an empty place filled", lambda s, y: torch.empty_like(y).copy_(y), {A: 8, B: 6})
image("dropout", lambda s, y: F.dropout2d(s.drop(y), 0.5, s.training), {A: 8, B: 6}, drop=nn.Dropout(0.5))
image("residual", lambda s, y: y + s.c(y), {A: 8, B: 6}, c=conv(8, 8))
image("residual with a scale", lambda s, y: torch.add(y, s.c(y), alpha=0.5), {A: 8, B: 6}, c=conv(8, 8))
image("squeeze and excitation", _se, {A: 8, B: 6, "d.weight": 4}, d=linear(8, 4), e=linear(4, 8))
image("one gate for all channels", lambda s, y: y * s.g(y).sigmoid(), {A: 8, B: 6}, g=conv(8, 1))
image("a gate from outside", lambda s, y: y * s.g.exp(), {A: 8, B: 6}, g=free(1))
image("layer scale", lambda s, y: y * s.g[:, None, None], {"g": 8, B: 6}, g=free(8))
image("two scales multiplied first", lambda s, y: y * (s.g * s.h), {"g": 8, B: 6}, g=free(8, 1, 1), h=free(8, 1, 1))
image("choice", lambda s, y: torch.where(y > 0, y, s.g * y), {"g": 8, B: 6}, g=free(8, 1, 1))
image("complex numbers", lambda s, y: torch.complex(y, s.c(y)).abs() + torch.polar(y.abs(), s.c(y)).real, {A: 8, B: 6},
      c=conv(8, 8))
image("interpolation", lambda s, y: torch.lerp(y, s.c(y), s.g), {"g": 8, B: 6}, c=conv(8, 8), g=free(8, 1, 1))
image("largest of two", lambda s, y: torch.maximum(y, s.c(y)), {A: 8, B: 6}, c=conv(8, 8))
image("masked", lambda s, y: y.masked_fill(y > 1, 0.5), {A: 8, B: 6})
image("in place", _in_place, {A: 8, B: 6}, c=conv(8, 8))
image("in place on some channels", _in_place_on_some, {A: 4, f"{A}#2": 4, B: 6})
image("in place on every other channel", _in_place_on_every_other, {A: 4, f"{A}#2": 4, B: 6})
image("in place on views with a step", _in_place_on_views, {A: 4, f"{A}#2": 4, B: 6}, r=nn.ReLU(inplace=True))
image("in place after views with a step", _in_place_after_views, {A: 4, B: 6})
image("in place on a view of a view with a step", lambda s, y: _unseen(y * 1.5, lambda some: some[:, ::2].tanh_()),
      {B: 6}, frozen=STEP)
image("in place beside a view with a step", lambda s, y: _unseen(y * 1.5, lambda some: some[:, :2].tanh_()), {B: 6},
      frozen=STEP)
image("copies of a slice with a step", _copies_of_a_step, {A: 4, f"{A}#2": 4, B: 6}, out=12)
image("in place after a slice with a step", _in_place_after_a_step, {B: 6}, out=4, frozen=STEP)
image("in place before a slice with a step", lambda s, y: (y * 2).tanh_()[:, ::2].sin(), {A: 4, f"{A}#2": 4, B: 6},
      out=4)
image("some channels zeroed", _zeroed, {A: 4, f"{A}#2": 4, B: 6})
image("constant per channel", lambda s, y: y * torch.arange(8.0)[:, None, None], {B: 6}, frozen=NO)
image("constant per pixel", lambda s, y: y + torch.arange(8.0), {A: 8, B: 6}, fixed=True)
image("zeros like", lambda s, y: torch.maximum(y, torch.zeros_like(y)), {A: 8, B: 6})
image("glu", lambda s, y: F.glu(y, 1), {A: 8, B: 6}, width=16, out=8)
image("glu as a layer", lambda s, y: s.glu(y) + y[:, 8:], {A: 8, B: 6}, width=16, out=8, glu=nn.GLU(1))
image("gate by chunk", lambda s, y: y.chunk(2, 1)[0] * y.chunk(2, 1)[1].sigmoid(), {A: 8, B: 6}, width=16, out=8)
image("rounded to steps", lambda s, y: torch.fake_quantize_per_tensor_affine(y, 0.1, 0, -128, 127) * y, {A: 8, B: 6})
image("rounded to learned steps", lambda s, y: y * torch._fake_quantize_learnable_per_tensor_affine(
      y, s.step.abs(), s.zero, -128, 127), {A: 8, B: 6}, step=free(1), zero=free(1))
image("rounded weight", lambda s, y: F.conv2d(y, torch.fake_quantize_per_tensor_affine(s.w, 0.1, 0, -128, 127)),
      {"w": 8, A: 8, B: 6}, w=free(8, 8, 1, 1))
image("prelu", lambda s, y: s.p(y), {A: 8, B: 6}, p=nn.PReLU(8))
net("slopes for the image", lambda s, x: s.head(s.a(s.p(x)).mean((2, 3))), (torch.zeros(2, 3, 8, 8),), (torch.zeros(3,
    3, 6, 5),),
    {A: 8}, p=nn.PReLU(3), a=conv(3, 8), head=linear(8, 4), frozen=NO)
image("one slope for all", lambda s, y: s.p(y), {A: 8, B: 6}, p=nn.PReLU())
image("functional prelu", lambda s, y: F.prelu(y, s.p), {"p": 8, B: 6}, p=free(8))
net("slopes of rows in inference mode", _in_inference_mode, (torch.zeros(5, 3),), None, {"p": 8}, a=linear(3, 8),
    p=free(8), head=linear(8, 4))
