"""What a random network is made of: each takes (net, draw, width, width of another map), gives a step and its width.

A step takes the network, three maps of one width and one of any width. None: not possible at this width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from samples import conv, free, linear
from torch import nn


def activation(net, draw, c, _):
    f = draw.choice((F.relu, F.gelu, F.silu, F.hardswish, torch.sigmoid, torch.tanh, F.elu))
    return lambda s, x, y, z, w: f(x), c


def convolution(net, draw, c, _):
    out, kernel = draw.choice((4, 6, 8, 12)), draw.choice((1, 3))
    name = net.add(conv(c, out, kernel, bias=draw.random() < 0.5))
    return lambda s, x, y, z, w: getattr(s, name)(x), out


def grouped(net, draw, c, _):
    groups, factor = draw.choice((2, 4, c)), draw.choice((1, 2))
    if c % groups:
        return None
    name = net.add(conv(c, c * factor, 3, groups=groups))
    return lambda s, x, y, z, w: getattr(s, name)(x), c * factor


def same_layer_again(net, draw, c, _):
    fit = [name for name, layer in net.named_children() if isinstance(layer, nn.Conv2d) and layer.in_channels == c]
    if not fit:
        return None
    name = draw.choice(fit)
    return lambda s, x, y, z, w: getattr(s, name)(x), getattr(net, name).out_channels


def functional(net, draw, c, _):
    out = draw.choice((4, 8))
    first, second = net.add(free(out, c, 1, 1)), net.add(free(2 * out, c))
    cut = draw.choice((True, False))

    def step(s, x, y, z, w):
        if cut:
            return F.conv2d(x, getattr(s, first)) * F.conv2d(x, getattr(s, second)[out:, :, None, None])
        return torch.einsum("bchw,oc->bohw", x, getattr(s, first).flatten(1)) + F.conv2d(x, getattr(s, first))

    return step, out


def normalised(net, draw, c, _):
    kind = draw.choice(("batch", "group", "instance", "one", "mean square", "hand"))
    if kind == "mean square":
        name = net.add(draw.choice((nn.RMSNorm, nn.LayerNorm))(c))
        return lambda s, x, y, z, w: getattr(s, name)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), c
    if kind == "hand":
        return lambda s, x, y, z, w: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 0.1), c
    layers = {"batch": nn.BatchNorm2d(c), "instance": nn.InstanceNorm2d(c, affine=True)}
    groups = 2 if kind == "group" and c % 2 == 0 else 1
    name = net.add(layers.get(kind) or nn.GroupNorm(groups, c))
    return lambda s, x, y, z, w: getattr(s, name)(x), c


def gate(net, draw, c, _):
    kind = draw.choice(("squeeze", "space", "scale", "slope"))
    if kind == "squeeze":
        down, up = net.add(linear(c, 4)), net.add(linear(4, c))
        return lambda s, x, y, z, w: x * getattr(s, up)(getattr(s, down)(y.mean((2, 3)))).sigmoid()[..., None, None], c
    if kind == "space":
        name = net.add(conv(2, 1, 3))
        ends = lambda w: torch.cat([w.mean(1, keepdim=True), w.max(1, keepdim=True)[0]], 1)  # noqa: E731
        return lambda s, x, y, z, w: x * getattr(s, name)(ends(w)).sigmoid(), c
    name = net.add(free(c, 1, 1) if kind == "scale" else nn.PReLU(c))
    if kind == "scale":
        return lambda s, x, y, z, w: x * getattr(s, name), c
    return lambda s, x, y, z, w: getattr(s, name)(x), c


def combined(net, draw, c, _):
    f = draw.choice((torch.add, torch.mul, torch.maximum, lambda x, y: torch.stack([x, y], 1).mean(1), torch.where))
    if f is torch.where:
        return lambda s, x, y, z, w: torch.where(x > 0, y, z), c
    return lambda s, x, y, z, w: f(x, y), c


def joined(net, draw, c, more):
    return lambda s, x, y, z, w: torch.cat([x, w], 1), c + more


def joined_thrice(net, draw, c, _):
    return lambda s, x, y, z, w: torch.cat([x, y, z], 1), 3 * c


def cut(net, draw, c, _):
    start = draw.randrange(c - 1)
    stop, step = draw.randrange(start + 2, c + 1), draw.choice((1, 1, 2))
    width = len(range(c)[start:stop:step])
    if width < 2:
        return None
    if step == 1 and draw.random() < 0.5:
        return lambda s, x, y, z, w: x.narrow(1, start - c, stop - start), width
    return lambda s, x, y, z, w: x[:, start:stop:step], width


def parted(net, draw, c, _):
    if c < 4:
        return None
    first = draw.randrange(2, c - 1)
    f, g = draw.choice((F.relu, torch.tanh)), draw.choice((torch.sigmoid, torch.abs))

    def step(s, x, y, z, w):
        u, v = x.split([first, c - first], 1)
        return torch.cat([f(v), g(u)], 1)

    return step, c


def halved(net, draw, c, _):
    kind = draw.choice(("glu", "product", "second"))
    if c % 2 or c < 4:
        return None
    if kind == "glu":
        return lambda s, x, y, z, w: F.glu(x, 1), c // 2
    if kind == "product":
        return lambda s, x, y, z, w: x.chunk(2, 1)[0] * y.chunk(2, 1)[1], c // 2
    return lambda s, x, y, z, w: torch.chunk(x, 2, dim=1)[1], c // 2


def shuffled(net, draw, c, _):
    groups = draw.choice((2, 3, 4))
    if c % groups or c == groups:
        return None
    kind = draw.choice(("shuffle", "mean", "largest", "group in batch"))

    def step(s, x, y, z, w):
        n, _, height, width = x.shape
        if kind == "group in batch":
            v = x.reshape(n * groups, -1, height, width)
            return (v * v.mean((2, 3), keepdim=True).tanh()).view(n, c, height, width)
        v = x.view(n, groups, c // groups, height, width)
        if kind == "shuffle":
            return v.transpose(1, 2).reshape(n, c, height, width)
        return v.mean(1) if kind == "mean" else v.amax(2)

    return step, {"mean": c // groups, "largest": groups}.get(kind, c)


def moved(net, draw, c, _):
    kind = draw.choice(("flip", "roll", "pixels", "repeat", "interleave", "pad", "unpixels"))
    before, after = draw.choice(((2, 2), (0, 3), (-2, 2)))
    steps = {
        "unpixels": (lambda s, x, y, z, w: F.pixel_shuffle(F.interpolate(x, scale_factor=0.5), 2), c // 4),
        "flip": (lambda s, x, y, z, w: x.flip(1), c),
        "roll": (lambda s, x, y, z, w: x.roll(2, 1), c),
        "pixels": (lambda s, x, y, z, w: F.interpolate(F.pixel_unshuffle(x, 2), scale_factor=2), 4 * c),
        "repeat": (lambda s, x, y, z, w: x.repeat(1, 2, 1, 1), 2 * c),
        "interleave": (lambda s, x, y, z, w: x.repeat_interleave(2, 1), 2 * c),
        "pad": (lambda s, x, y, z, w: F.pad(x, (0, 0, 0, 0, before, after), value=0.3), c + before + after),
    }
    possible = steps[kind][1] > 1 and not (kind == "unpixels" and c % 4)
    return steps[kind] if possible else None


def attention(net, draw, c, _):
    kind = draw.choice(("plain", "heads", "fused", "linear", "channels"))
    if kind in ("heads", "fused") and c % 2:
        return None
    names = [net.add(linear(c, c)) for _ in range(3)]

    def step(s, x, y, z, w):
        n, _, height, width = x.shape
        q, k, v = (getattr(s, name)(t.flatten(2).mT) for name, t in zip(names, (x, y, z)))
        if kind in ("heads", "fused"):
            q, k, v = (t.view(n, -1, 2, c // 2).transpose(1, 2) for t in (q, k, v))
        if kind == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        elif kind == "linear":
            out = q.sigmoid() @ (k.sigmoid().mT @ v)
        elif kind == "channels":
            out = v @ (q.mT @ k).softmax(-1)
        else:
            out = (q @ k.mT / c**0.5).softmax(-1) @ v
        out = out.transpose(1, 2).flatten(2) if kind in ("heads", "fused") else out
        return out.mT.reshape(n, c, height, width)

    return step, c


def in_place(net, draw, c, _):
    half = c // 2
    kind = draw.choice(("all", "some", "added"))

    def step(s, x, y, z, w):
        x = x * 1.5
        if kind == "all":
            return x.relu_().mul_(0.5)
        if kind == "some":
            x[:, :half].tanh_()
            return x
        x += y
        return x

    return step, c


def reduced(net, draw, c, _):
    kind = draw.choice(("mean", "some", "softmax", "length", "deviation"))
    if kind == "some":
        return lambda s, x, y, z, w: x * y[:, : c // 2].mean(1, keepdim=True), c
    if kind == "softmax":
        return lambda s, x, y, z, w: x * y.softmax(1), c
    if kind == "length":
        return lambda s, x, y, z, w: F.normalize(x, dim=1) + y, c
    if kind == "deviation":
        return lambda s, x, y, z, w: x / (w.var((1, 2, 3), keepdim=True, correction=0) + 0.1), c
    return lambda s, x, y, z, w: x * w.mean((1, 2, 3), keepdim=True), c


def summed(net, draw, c, _):
    kind = draw.choice(("total", "spread", "cosine", "template", "power"))
    if kind == "total":
        return lambda s, x, y, z, w: x * w.sum((1, 3), keepdim=True).tanh() + torch.sum(y[:, 1:], 1)[:, None].tanh(), c
    if kind == "spread":
        return lambda s, x, y, z, w: x / (w.std((1, 2), keepdim=True) + 0.1) + y.var(1, True, True).tanh(), c
    if kind == "template":
        name = net.add(free(c, 1, 1))
        return lambda s, x, y, z, w: x * F.cosine_similarity(y, getattr(s, name), dim=-3)[:, None], c
    if kind == "cosine":
        return lambda s, x, y, z, w: x * F.cosine_similarity(y, z, dim=1)[:, None], c
    return lambda s, x, y, z, w: x / (w.norm(3, (1,), True) + torch.linalg.vector_norm(y, 1) + 1), c


def logarithm(net, draw, c, _):
    kind = draw.choice(("of softmax", "of sum", "as a layer"))
    if kind == "as a layer":
        name = net.add(draw.choice((nn.Softmax, nn.LogSoftmax))(1))
        return lambda s, x, y, z, w: x + getattr(s, name)(y), c
    if kind == "of sum":
        return lambda s, x, y, z, w: x * w.logsumexp((1, 2), keepdim=True).tanh() + torch.logsumexp(y, 1)[:, None], c
    return lambda s, x, y, z, w: (x + F.log_softmax(y, -3)).tanh(), c


def patches(net, draw, c, _):
    kind = draw.choice(("unfold", "fold", "both"))
    if kind == "fold" and c % 4:
        return None

    def step(s, x, y, z, w):
        height, width = x.shape[2:]
        if kind == "fold":
            return F.fold(x[:, :, ::2, ::2].flatten(2), (height, width), 2, stride=2)
        columns = F.unfold(x, 3, padding=1)
        if kind == "unfold":
            return columns.unflatten(2, (height, width))
        return F.fold(columns * columns.tanh(), (height, width), (3, 3), padding=1)

    return step, {"unfold": 9 * c, "fold": c // 4}.get(kind, c)


def transposed(net, draw, c, _):
    groups, factor = draw.choice((1, 2, 4, c)), draw.choice((1, 2))
    if c % groups:
        return None
    name = net.add(nn.ConvTranspose2d(c, c * factor, 3, padding=1, groups=groups, bias=draw.random() < 0.5))
    return lambda s, x, y, z, w: getattr(s, name)(x), c * factor


def squeezed(net, draw, c, _):
    kind = draw.choice(("gate", "map"))
    if kind == "gate":
        return lambda s, x, y, z, w: x * y.mean((2, 3), keepdim=True).squeeze().reshape(-1, c, 1, 1).sigmoid(), c
    return lambda s, x, y, z, w: torch.squeeze(x[:, None]).reshape(x.shape), c


def folded(net, draw, c, _):
    times, parts = draw.choice((2, 4)), draw.choice((2, c))

    def step(s, x, y, z, w):
        n, _, height, width = x.shape
        v = x.repeat_interleave(times, 1).reshape(n * parts, -1, height, width)
        return v.amax(1).reshape(n, parts, height, width)

    return step, parts


OPERATIONS = (
    activation, attention, combined, combined, convolution, convolution, cut, functional, gate, grouped, halved,
    in_place, joined, joined_thrice, moved, normalised, normalised, parted, reduced, same_layer_again, shuffled,
)  # fmt: skip

# Seeds from here on also draw these; networks of earlier seeds stay what they were.
LATER = 10_000
MORE = (*OPERATIONS, folded, logarithm, patches, squeezed, summed, summed, summed, transposed, transposed)
