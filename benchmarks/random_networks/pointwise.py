"""Operations position by position: activations, gates, sums, in place and not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .network import MAP, TOKENS, VECTOR, Draw, Form, RandomNetwork
from .operations import operation

EVERY = (MAP, TOKENS, VECTOR)
SMOOTH = (F.relu, F.gelu, F.silu, F.hardswish, torch.sigmoid, torch.tanh, F.elu, F.mish, F.softplus, torch.abs,
          F.hardtanh, F.leaky_relu, F.logsigmoid, F.selu, torch.sin, torch.square, torch.neg)  # fmt: skip


@operation(*EVERY, often=2)
def activation(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    f = draw.choice(SMOOTH)
    return net.step("activation", lambda s, x: f(x), [x], form)


@operation(*EVERY)
def in_place(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind = draw.choice(("all", "half", "added", "masked", "layer", "copied", "every other", "seen by a view"))
    half, y = form.width // 2, net.like(form)
    name = net.add(nn.ReLU(inplace=True)) if kind == "layer" else ""
    lead = (slice(None),) * form.axis

    def run(s, x, y):
        x = x * 1.5
        if kind == "all":
            return x.relu_().mul_(0.5)
        if kind == "half":
            x[(*lead, slice(None, half))].tanh_()
        elif kind == "every other":
            x[(*lead, slice(None, None, 2))].tanh_()
        elif kind == "seen by a view":
            some = x[(*lead, slice(None, None, 2))]
            x += y
            return x + some.sum(form.axis, keepdim=True).tanh()
        elif kind == "added":
            x += y
        elif kind == "masked":
            x.masked_fill_(y > 0, 0.25)
        elif kind == "copied":
            x[(*lead, slice(half, None))] = y[(*lead, slice(half, None))].sigmoid()
        else:
            return getattr(s, name)(x)
        return x

    return net.step("in place", run, [x, y], form)


WRITES = "one", "one picked", "one of a view", "from one", "step", "step scaled", "step kept", "step read", "listed"


@operation(*EVERY)
def written(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Write to single channels, or to those at a step, in up to three ways in a row."""
    y, c, lead = net.like(form), form.width, (slice(None),) * form.axis
    drawn = [(draw.choice(WRITES), draw.index(c), draw.index(c), draw.between(2, 3)) for _ in range(1 + draw.index(3))]

    def run(s, x, y):
        x = x * 1.5
        for kind, at, other, step in drawn:
            every = (*lead, slice(at % 2, None, step))
            if kind == "one":
                x[(*lead, at)] *= 2
            elif kind == "one picked":
                x.select(form.axis, at - c).tanh_()
            elif kind == "one of a view":
                x[(*lead, slice(at, at + 1))] = y[(*lead, slice(other, other + 1))]
            elif kind == "from one":
                x[(*lead, at)] += y[(*lead, other)]
            elif kind == "step":
                x[every] = y[every].sin()
            elif kind == "step scaled":
                x[every] *= 0.5
            elif kind == "step kept":
                some = x[every].tanh_()
                some.add_(0.5)
                some += y[every]
            elif kind == "step read":
                x = x + x[every].contiguous().mul_(2).sum(form.axis, keepdim=True).tanh()
            else:
                x[(*lead, [at, (at + 1) % c])] -= 1
        return x

    return net.step("written", run, [x, y], form)


@operation(*EVERY, often=3)
def combined(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    f = draw.choice((torch.add, torch.mul, torch.sub, torch.maximum, "stack", torch.where, torch.lerp, "divided"))
    places = [x, net.like(form), net.like(form)]
    if f == "stack":
        return net.step("combined", lambda s, x, y, z: torch.stack([x, y, z], 1).mean(1), places, form)
    if f == "divided":
        return net.step("combined", lambda s, x, y, z: x / (y.abs() + z * z + 1), places, form)
    if f is torch.where:
        return net.step("combined", lambda s, x, y, z: torch.where(x > 0, y, z), places, form)
    if f is torch.lerp:
        return net.step("combined", lambda s, x, y, z: torch.lerp(x, y, 0.3) + z, places, form)
    return net.step("combined", lambda s, x, y: f(x, y * 0.75), places[:2], form)  # x - x would be zero


@operation(MAP)
def scaled(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """By a parameter per channel, before or after it was flattened, or by one number."""
    kind, ones = draw.choice(("scale", "slope", "one slope", "flat", "shift", "one")), (1,) * len(form.space)
    if kind in ("slope", "one slope"):
        name = net.add(nn.PReLU(form.width if kind == "slope" else 1))
        return net.step("scaled", lambda s, x: getattr(s, name)(x), [x], form)
    name = net.free(*{"flat": (form.width,), "one": (1,)}.get(kind, (form.width, *ones)))
    if kind == "flat":
        return net.step("scaled", lambda s, x: x * getattr(s, name).view(1, -1, *ones), [x], form)
    if kind == "shift":
        return net.step("scaled", lambda s, x: (x + getattr(s, name)) * getattr(s, name).tanh(), [x], form)
    return net.step("scaled", lambda s, x: x * getattr(s, name), [x], form)


@operation(TOKENS, VECTOR)
def scaled_last(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind = draw.choice(("scale", "two", "slope"))
    first, second = net.free(form.width), net.free(form.width)
    if kind == "slope" and form.kind == VECTOR:
        name = net.add(nn.PReLU(form.width))
        return net.step("scaled", lambda s, x: getattr(s, name)(x), [x], form)
    if kind == "two":
        return net.step("scaled", lambda s, x: torch.addcmul(x, x, getattr(s, first) * getattr(s, second)), [x], form)
    return net.step("scaled", lambda s, x: x * getattr(s, first) + getattr(s, second), [x], form)


@operation(MAP)
def gate(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind = draw.choice(("squeeze", "space", "convolved", "mean", "efficient"))
    y, space = net.like(form), tuple(range(2, 2 + len(form.space)))
    ones = (None,) * len(form.space)
    if kind == "space":
        y = net.beside(form)
        from .maps import CONVOLUTIONS

        name = net.add(CONVOLUTIONS[len(form.space) - 1](2, 1, 3, padding=1))

        def by_space(s, x, y):
            ends = torch.cat([y.mean(1, keepdim=True), y.max(1, keepdim=True)[0]], 1)
            return x * getattr(s, name)(ends).sigmoid()

        return net.step("gate", by_space, [x, y], form)
    if kind == "efficient":
        name = net.add(nn.Conv1d(1, 1, 3, padding=1))
        run = lambda s, x, y: x * getattr(s, name)(y.mean(space)[:, None])[:, 0].sigmoid()[(..., *ones)]  # noqa: E731
        return net.step("gate", run, [x, y], form)
    if kind == "mean":
        return net.step("gate", lambda s, x, y: x * y.mean(space, keepdim=True).sigmoid(), [x, y], form)
    down, up = net.add(nn.Linear(form.width, 4)), net.add(nn.Linear(4, form.width))
    if kind == "squeeze":
        run = lambda s, x, y: x * getattr(s, up)(getattr(s, down)(y.mean(space))).sigmoid()[(..., *ones)]  # noqa: E731
    else:
        run = lambda s, x, y: torch.sigmoid(getattr(s, up)(F.relu(getattr(s, down)(y.mean(space)))))[(..., *ones)] + x  # noqa: E731
    return net.step("gate", run, [x, y], form)


@operation(*EVERY)
def dropout(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind = draw.choice(("identity", "nothing", "features", "half"))
    name = net.add({"identity": nn.Identity(), "nothing": nn.Dropout(0.0)}.get(kind, nn.Dropout(0.5)))
    net.same_in_training &= kind in ("identity", "nothing")
    if kind == "features":
        return net.step("dropout", lambda s, x: torch.feature_dropout(x, 0.5, s.training), [x], form)
    return net.step("dropout", lambda s, x: getattr(s, name)(x), [x], form)


@operation(*EVERY)
def constants(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind = draw.choice(("ones", "full", "zeros", "new", "clone", "detached", "same type"))
    runs = {
        "ones": lambda s, x: x + torch.ones_like(x),
        "full": lambda s, x: x * torch.full_like(x, 0.7),
        "zeros": lambda s, x: torch.cat([x, torch.zeros_like(x)], form.axis),
        "new": lambda s, x: x + x.new_ones(1),
        "clone": lambda s, x: x.clone().contiguous(),
        "detached": lambda s, x: x.detach() + x,
        "same type": lambda s, x: x.to(x.dtype).type_as(x),
    }
    return net.step("constants", runs[kind], [x], form.of(2 * form.width) if kind == "zeros" else form)
