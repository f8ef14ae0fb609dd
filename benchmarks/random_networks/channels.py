"""Operations along the axis of channels, wherever it lies: joined, cut, moved, reduced."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .network import MAP, TOKENS, VECTOR, Draw, Form, RandomNetwork, Unsuited
from .operations import operation

EVERY = (MAP, TOKENS, VECTOR)


@operation(*EVERY, often=2)
def joined(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    places = [x, net.beside(form)]
    if draw.whether():
        places.append(net.beside(form))
    axis = draw.choice((form.axis, form.axis - 2 - len(form.space)))
    width = sum(net.steps[place].form.width for place in places)
    return net.step("joined", lambda s, *x: torch.cat(x, axis), places, form.of(width))


@operation(*EVERY)
def cut(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    start = draw.between(0, form.width - 2)
    stop, step = draw.between(start + 2, form.width), draw.choice((1, 1, 2))
    width, lead = len(range(start, stop, step)), (slice(None),) * form.axis
    if step == 1 and draw.whether():
        run = lambda s, x: x.narrow(form.axis, start - form.width, stop - start)  # noqa: E731
        return net.step("narrowed", run, [x], form.of(width))
    return net.step("cut", lambda s, x: x[(*lead, slice(start, stop, step))], [x], form.of(width))


@operation(*EVERY)
def split(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Split in two or three, treat each in its own way, and concatenate reordered or multiply."""
    if form.width < 4:
        raise Unsuited
    kind, first = draw.choice(("turned", "first", "thirds", "chunks", "equal")), draw.between(2, form.width - 2)
    axis, c = form.axis, form.width
    if kind == "chunks":
        if c % 2:
            raise Unsuited
        y = net.like(form)
        run = lambda s, x, y: x.chunk(2, axis)[0] * torch.chunk(y, 2, dim=axis)[1]  # noqa: E731
        return net.step("split", run, [x, y], form.of(c // 2))
    if kind == "equal":
        part = draw.divisor(c)
        if part < 2:
            raise Unsuited
        return net.step("split", lambda s, x: sum(x.split(part, axis)), [x], form.of(part))
    if kind == "thirds":
        if c < 6:
            raise Unsuited
        sizes = [2, c - 4, 2]
        run = lambda s, x: torch.cat([x.split(sizes, axis)[2].relu(), x.split(sizes, axis)[0]], axis)  # noqa: E731
        return net.step("split", run, [x], form.of(4))

    def run(s, x):
        u, v = torch.split(x, [first, c - first], axis)
        return u.tanh() if kind == "first" else torch.cat([v.abs(), u.sigmoid()], axis)

    return net.step("split", run, [x], form.of(first if kind == "first" else c))


@operation(*EVERY)
def halves(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    if form.width % 2:
        raise Unsuited
    return net.step("halves", lambda s, x: F.glu(x, form.axis), [x], form.of(form.width // 2))


@operation(*EVERY)
def shuffled(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """A view of the channels as groups; one axis of it is reduced, or both change places."""
    groups, kind = draw.divisor(form.width), draw.choice(("shuffle", "mean", "largest", "normalised"))
    if groups in (1, form.width):
        raise Unsuited
    axis, c = form.axis, form.width

    def run(s, x):
        v = x.unflatten(axis, (groups, c // groups))
        if kind == "shuffle":
            return v.transpose(axis, axis + 1).flatten(axis, axis + 1)
        if kind == "normalised":
            return (v / (v.norm(dim=axis + 1, keepdim=True) + 1)).reshape(x.shape)
        return v.mean(axis) if kind == "mean" else v.amax(axis + 1)

    return net.step("shuffled", run, [x], form.of({"mean": c // groups, "largest": groups}.get(kind, c)))


@operation(*EVERY)
def moved(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind = draw.choice(("flip", "repeat", "interleave", "pad", "roll", "picked", "one", "sorted", "unbound", "tile"))
    before, after = draw.choice(((2, 2), (0, 3), (-1, 2)))
    axis, c, behind = form.axis, form.width, len(form.space) + 1 - form.axis
    counts = [1] * (2 + len(form.space))
    counts[axis] = 2
    runs = {
        "flip": (lambda s, x: x.flip(axis), c),
        "repeat": (lambda s, x: x.repeat(*counts), 2 * c),
        "tile": (lambda s, x: torch.tile(x, tuple(counts)), 2 * c),
        "interleave": (lambda s, x: x.repeat_interleave(2, axis), 2 * c),
        "pad": (lambda s, x: F.pad(x, (0, 0) * behind + (before, after), value=0.3), c + before + after),
        "roll": (lambda s, x: x.roll(2, axis), c),
        "picked": (lambda s, x: x.index_select(axis, torch.tensor([0, 1, c - 1], device=x.device)), 3),
        "one": (lambda s, x: x * x.select(axis, 0).unsqueeze(axis), c),
        "sorted": (lambda s, x: x.sort(axis)[0] + x.cumsum(axis), c),
        "unbound": (lambda s, x: torch.stack(x.unbind(axis)[:2], axis), 2),
    }
    return net.step("moved", runs[kind][0], [x], form.of(runs[kind][1]))


@operation(*EVERY)
def reduced(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """A number per position from all channels there, put back on a map."""
    kind = draw.choice(("mean", "sum", "largest", "deviation", "unbiased", "norm", "cosine", "log", "product", "half"))
    y, axis, half = net.like(form), form.axis, form.width // 2
    lead = (slice(None),) * axis
    runs = {
        "mean": lambda x, y: x * y.mean(axis, keepdim=True),
        "sum": lambda x, y: x + torch.sum(y, axis, keepdim=True).tanh(),
        "largest": lambda x, y: x - y.amax(axis, keepdim=True).tanh(),
        "deviation": lambda x, y: x / (y.var(axis, keepdim=True, correction=0) + 0.1),
        "unbiased": lambda x, y: x / (y.std(axis, keepdim=True) + 0.1),
        "norm": lambda x, y: F.normalize(x, dim=axis) + y / (y.norm(3, axis, True) + 1),
        "cosine": lambda x, y: x * F.cosine_similarity(x, y, dim=axis).unsqueeze(axis),
        "log": lambda x, y: x * torch.logsumexp(y, axis, keepdim=True).tanh(),
        "product": lambda x, y: x * y.tanh().prod(axis, keepdim=True),
        "half": lambda x, y: x * y[(*lead, slice(None, half))].mean(axis, keepdim=True),
    }
    run = runs[kind]
    return net.step("reduced", lambda s, x, y: run(x, y), [x, y], form)


@operation(*EVERY)
def over_all(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """A number per sample from all channels and positions of some map, put back."""
    y = net.any(lambda other: other.kind == form.kind and len(other.space) == len(form.space))
    kind = draw.choice(("mean", "sum", "deviation", "largest"))
    dims = tuple(range(1, 2 + len(form.space)))
    runs = {
        "mean": lambda y: y.mean(dims, keepdim=True),
        "sum": lambda y: y.sum(dims, keepdim=True).tanh(),
        "deviation": lambda y: y.var(dims, keepdim=True, correction=0),
        "largest": lambda y: y.amax(dims, keepdim=True).tanh(),
    }
    run = runs[kind]
    return net.step("over all", lambda s, x, y: x * run(y), [x, y], form)


@operation(*EVERY)
def softmax(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind, axis = draw.choice(("softmax", "log_softmax", "layer")), form.axis
    if kind == "layer":
        name = net.add(torch.nn.Softmax(axis))
        return net.step("softmax", lambda s, x: x + getattr(s, name)(x), [x], form)
    f = F.softmax if kind == "softmax" else F.log_softmax
    return net.step("softmax", lambda s, x: x.tanh() + f(x, axis).tanh(), [x], form)
