"""Operations by places: an index, samples, windows, distances; and weights used twice."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d

from .maps import rank
from .network import MAP, TOKENS, VECTOR, WIDTHS, Draw, Form, RandomNetwork, Unsuited
from .operations import operation

EVERY = (MAP, TOKENS, VECTOR)


def some_axis(draw: Draw, form: Form) -> int:
    """Draw an axis, in one case of four that of the channels.

    Channels freeze under most that depends on places.
    """
    others = [axis for axis in range(1, 2 + len(form.space)) if axis != form.axis]
    return form.axis if draw.index(4) == 3 else draw.choice(others)


@operation(MAP, TOKENS)
def picked(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Pick or put along an axis, by an index from a member or a table."""
    kind = draw.choice(("gather", "scatter", "scatter add", "index", "put", "add", "copy", "fill", "by mask"))
    y, axis = net.like(form), some_axis(draw, form)
    size = form.width if axis == form.axis else form.space[axis - 1 - (form.axis == 1)]
    table, lead = torch.arange(0, size, 2).flip(0), (slice(None),) * axis

    def run(s, x, y):
        at, some = table.to(x.device), (*lead, table.to(x.device))
        if kind == "gather":
            return x.gather(axis, y.argsort(axis))
        if kind == "scatter":
            return x.scatter(axis, y.argsort(axis), y)
        if kind == "scatter add":
            return torch.zeros_like(x).scatter_add_(axis, x.argsort(axis), y)
        if kind == "index":
            return x + x[some].mean(axis, keepdim=True)
        if kind == "add":
            return x.index_add(axis, at, y[some])
        if kind == "copy":
            return x.index_copy(axis, at, y[some].tanh())
        if kind == "fill":
            return x.index_fill(axis, at, 0.5)
        x = x.clone()
        if kind == "by mask":
            x[y > 0.5] = 0.25
        else:
            x[some] = y[some].sigmoid()
        return x

    return net.step("picked", run, [x, y], form)


@operation(MAP, TOKENS)
def ranked(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """By order or frequency along an axis of channels or another one."""
    kind, axis = (
        draw.choice(("median", "cummax", "mode", "top", "product", "first")),
        1 + draw.index(1 + len(form.space)),
    )
    runs = {
        "median": lambda x: x - x.median(axis, keepdim=True)[0],
        "cummax": lambda x: x + x.cummax(axis)[0],
        "mode": lambda x: x * x.mode(axis, keepdim=True)[0].tanh(),
        "top": lambda x: x + x.topk(2, axis)[0].sum(axis, keepdim=True),
        "product": lambda x: x.tanh().cumprod(axis),
        "first": lambda x: x * (1 + x.argmax(axis, keepdim=True)),
    }
    run = runs[kind]
    return net.step("ranked", lambda s, x: run(x), [x], form)


@operation(MAP, TOKENS)
def windows(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Overlapping windows, a turn, or a spectrum, along channels or space."""
    kind = draw.choice(("windows", "turn", "spectrum", "complex"))
    axis = some_axis(draw, form)
    if kind == "turn":
        if form.kind != MAP or len(form.space) < 2 or form.space[0] != form.space[1]:
            raise Unsuited
        return net.step("windows", lambda s, x: x.rot90(1, (2, 3)), [x], form)
    if kind == "spectrum":
        return net.step(
            "windows", lambda s, x: torch.fft.rfft(x, dim=axis).abs().sum(axis, keepdim=True) + x, [x], form
        )
    if kind == "complex":
        if form.width % 2:
            raise Unsuited
        y = net.like(form)

        def turned(s, x, y):
            u, v = (torch.view_as_complex(z.unflatten(form.axis, (-1, 2)).movedim(form.axis + 1, -1).contiguous())
                    for z in (x, y))  # fmt: skip
            return torch.view_as_real(u * v).movedim(-1, form.axis + 1).flatten(form.axis, form.axis + 1)

        return net.step("windows", turned, [x, y], form)
    return net.step("windows", lambda s, x: x + x.unfold(axis, 2, 1).mean((axis, -1)).unsqueeze(axis), [x], form)


@operation(MAP)
def sampled(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Warped by a grid, convolved at offsets, or put back where the largest were; images only."""
    kind = draw.choice(("grid", "deformed", "unpooled"))
    y = net.beside(form)
    if rank(form) != 1:
        raise Unsuited
    if kind == "unpooled":
        if any(size % 2 for size in form.space):
            raise Unsuited

        def unpooled(s, x):
            small, at = F.max_pool2d(x, 2, return_indices=True)
            return x + F.max_unpool2d(small.tanh(), at, 2)

        return net.step("sampled", unpooled, [x], form)
    wide = net.steps[y].form.width
    if kind == "grid":
        name = net.add(nn.Conv2d(wide, 2, 1))
        run = lambda s, x, y: F.grid_sample(x, getattr(s, name)(y).tanh().movedim(1, -1), align_corners=False)  # noqa: E731
        return net.step("sampled", run, [x, y], form)
    out = draw.choice(WIDTHS)
    name, weight = net.add(nn.Conv2d(wide, 18, 1)), net.free(out, form.width, 3, 3)
    run = lambda s, x, y: deform_conv2d(x, getattr(s, name)(y), getattr(s, weight), padding=1)  # noqa: E731
    return net.step("sampled", run, [x, y], form.of(out))


@operation(TOKENS)
def distances(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Attention by distance, and rows of a table by distance or by the largest channel."""
    kind = draw.choice(("near", "cubic", "code", "largest"))
    if kind == "largest":
        name = net.add(nn.Embedding(form.width, form.width))
        return net.step("distances", lambda s, x: x + getattr(s, name)(x.argmax(-1)), [x], form)
    if kind == "code":
        name = net.add(nn.Embedding(5, form.width))
        run = lambda s, x: x + getattr(s, name)(torch.cdist(x, getattr(s, name).weight).argmin(-1))  # noqa: E731
        return net.step("distances", run, [x], form)
    y, p = net.like(form), 2.0 if kind == "near" else 3.0
    return net.step("distances", lambda s, x, y: (-torch.cdist(x, y, p)).softmax(-1) @ y, [x, y], form)


@operation(*EVERY)
def products(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Products of two members over space: between channels of both, normalised or not."""
    y, kind = (
        net.any(lambda other: other.kind == form.kind and other.space == form.space),
        draw.choice(("gram", "mixed")),
    )
    wide, dims = net.steps[y].form.width, "" if form.kind == VECTOR else "s"
    flat = (lambda z: z.flatten(2)) if form.kind == MAP else (lambda z: z.movedim(form.axis, 1))
    if kind == "gram":
        if form.width * wide > 36:
            raise Unsuited
        run = lambda s, x, y: torch.einsum(f"bc{dims},bd{dims}->bcd", flat(x), flat(y)).flatten(1)  # noqa: E731
        return net.step("products", run, [x, y], Form(VECTOR, form.width * wide))
    run = lambda s, x, y: torch.einsum(  # noqa: E731
        f"bc{dims},bd{dims}->bd", flat(x), flat(y)
    )
    return net.step("products", run, [x, y], Form(VECTOR, wide))


@operation(TOKENS, VECTOR)
def tied(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """One parameter as rows and as columns, in parts, masked, or of low rank."""
    kind, out, c = (
        draw.choice(("back", "parts", "masked", "low rank", "turned", "doubled")),
        draw.choice(WIDTHS),
        form.width,
    )
    w = net.free(out, c)
    if kind == "back":
        return net.step("tied", lambda s, x: F.linear(F.linear(x, getattr(s, w)).relu(), getattr(s, w).t()), [x], form)
    if kind == "parts":
        half = out // 2
        run = lambda s, x: F.linear(x, getattr(s, w)[:half]).sum(-1, True) + F.linear(x, getattr(s, w)[half:])  # noqa: E731
        return net.step("tied", run, [x], form.of(out - half))
    if kind == "masked":
        mask = f"mask{len(net.steps)}"
        net.register_buffer(mask, (torch.arange(out)[:, None] + torch.arange(c)) % 3 > 0)
        return net.step("tied", lambda s, x: F.linear(x, getattr(s, w) * getattr(s, mask)), [x], form.of(out))
    if kind == "low rank":
        up, down = net.free(out, 2), net.free(2, c)
        run = lambda s, x: F.linear(x, getattr(s, w) + getattr(s, up) @ getattr(s, down))  # noqa: E731
        return net.step("tied", run, [x], form.of(out))
    if kind == "turned":
        y = net.any(lambda other: other.kind == form.kind and other.width == out)
        run = lambda s, x, y: F.linear(y, getattr(s, w).t()).mean(-1, True) * F.linear(x, getattr(s, w))  # noqa: E731
        if net.steps[y].form.space != form.space:
            raise Unsuited
        return net.step("tied", run, [x, y], form.of(out))
    if math.prod((2, c)) > 36:
        raise Unsuited
    run = lambda s, x: F.linear(torch.cat([x, x.tanh()], -1), torch.cat([getattr(s, w), getattr(s, w)], 1))  # noqa: E731
    return net.step("tied", run, [x], form.of(out))
