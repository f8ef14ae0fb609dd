"""Normalisations of every kind, on maps, tokens and vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .maps import layered, rank
from .network import MAP, TOKENS, VECTOR, Draw, Form, RandomNetwork, Unsuited
from .operations import operation

BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@operation(MAP, often=3)
def map_norm(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind = draw.choice(("batch", "group", "instance", "layer", "last", "hand", "response", "local", "functional"))
    c, affine = form.width, not draw.whether()
    if kind == "batch":
        return layered(net, "norm", BATCH[rank(form)](c, affine=affine, momentum=0.3), x, form)
    if kind == "instance":
        return layered(net, "norm", INSTANCE[rank(form)](c, affine=affine), x, form)
    if kind == "group":
        return layered(net, "norm", nn.GroupNorm(draw.divisor(c), c, affine=affine), x, form)
    if kind == "layer":
        return layered(net, "norm", nn.LayerNorm([c, *form.space], elementwise_affine=affine), x, form)
    if kind == "local":
        at = net.add(nn.LocalResponseNorm(3))  # which takes views of volumes
        return net.step("norm", lambda s, x: getattr(s, at)(x.contiguous()), [x], form)
    if kind == "last":
        name = net.add(draw.choice((nn.LayerNorm, nn.RMSNorm))(c, elementwise_affine=affine))
        run = lambda s, x: getattr(s, name)(x.movedim(1, -1)).movedim(-1, 1)  # noqa: E731
        return net.step("norm", run, [x], form)
    if kind == "functional":
        weight, bias = net.free(c), net.free(c)
        run = lambda s, x: F.layer_norm(x.transpose(1, -1), (c,), getattr(s, weight), getattr(s, bias)).transpose(1, -1)  # noqa: E731
        return net.step("norm", run, [x], form)
    if kind == "response":
        weight = net.free(1, c, *(1 for _ in form.space))

        def response(s, x):
            size = x.norm(2, tuple(range(2, x.dim())), True)
            return x + getattr(s, weight) * x * (size / (size.mean(1, keepdim=True) + 1e-3))

        return net.step("norm", response, [x], form)
    hand = lambda s, x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 0.1)  # noqa: E731
    return net.step("norm", hand, [x], form)


@operation(TOKENS, VECTOR, often=2)
def last_norm(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind, c, affine = draw.choice(("layer", "square", "batch", "functional", "group")), form.width, not draw.whether()
    if kind in ("layer", "square"):
        return layered(
            net, "norm", (nn.LayerNorm if kind == "layer" else nn.RMSNorm)(c, elementwise_affine=affine), x, form
        )
    if kind == "functional":
        return net.step("norm", lambda s, x: F.layer_norm(x, x.shape[-1:]) + F.rms_norm(x, (c,)), [x], form)
    if kind == "group" and form.kind == VECTOR:
        raise Unsuited  # of a single sample with one channel for each group, PyTorch refuses to take a variance
    layer = nn.BatchNorm1d(c, affine=affine) if kind == "batch" else nn.GroupNorm(draw.divisor(c), c, affine=affine)
    if form.kind == VECTOR:
        return layered(net, "norm", layer, x, form)
    name = net.add(layer)
    return net.step("norm", lambda s, x: getattr(s, name)(x.transpose(1, 2)).transpose(1, 2), [x], form)


@operation(MAP, TOKENS)
def by_hand(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Statistics over space or over everything, by hand."""
    kind, space = draw.choice(("space", "all", "mixed")), form.axis % 2 + 1
    dims = {"space": (space,), "all": tuple(range(1, 2 + len(form.space))), "mixed": (form.axis,)}[kind]

    def run(s, x):
        variance, mean = torch.var_mean(x, dims, correction=1, keepdim=True)
        return (x - mean) / (variance + 0.1).sqrt()

    return net.step("norm by hand", run, [x], form)
