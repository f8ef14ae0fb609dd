"""Operations on maps [n, c, *space] with one to three axes: convolution, pooling, resizing."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from .network import CONVOLUTIONS, MAP, TOKENS, VECTOR, WIDTHS, Draw, Form, RandomNetwork, Unsuited
from .operations import operation

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FUNCTIONAL = (F.conv1d, F.conv2d, F.conv3d)
FUNCTIONAL_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def rank(form: Form) -> int:
    return len(form.space) - 1


def layered(net: RandomNetwork, name: str, layer: nn.Module, x: int, form: Form) -> int:
    """Add a step that calls a layer."""
    at = net.add(layer)
    return net.step(name, lambda s, x: getattr(s, at)(x), [x], form)


@operation(MAP, often=3)
def convolution(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    out, kernel, bias = draw.choice(WIDTHS), draw.choice((1, 3)), draw.whether()
    stride, dilation = draw.choice((1, 1, 2)), draw.choice((1, 1, 2))
    mode = draw.choice(("zeros", "zeros", "reflect", "circular", "replicate"))
    if stride == 2 and any(size % 2 or size < 4 for size in form.space):
        raise Unsuited
    padding = dilation * (kernel // 2)
    if mode != "zeros" and (padding >= min(form.space) or (mode == "reflect" and rank(form) == 2)):
        raise Unsuited
    layer = CONVOLUTIONS[rank(form)](form.width, out, kernel, stride, padding, dilation, bias=bias, padding_mode=mode)
    return layered(net, "convolution", layer, x, Form(MAP, out, tuple(size // stride for size in form.space)))


@operation(MAP, often=2)
def grouped(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Grouped, depthwise, with a depth multiplier, or with one output for each group."""
    groups, times = draw.divisor(form.width), draw.choice((1, 2, "one"))
    out = groups if times == "one" else form.width * times
    kernel, bias = draw.choice((3, 1)), draw.whether()
    layer = CONVOLUTIONS[rank(form)](form.width, out, kernel, padding=kernel // 2, groups=groups, bias=bias)
    return layered(net, "grouped", layer, x, form.of(out))


@operation(MAP)
def transposed(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    groups, per = draw.divisor(form.width), draw.choice((1, 2, 3))
    stride, bias = draw.choice((1, 2)), draw.whether()
    if stride == 2 and math.prod(form.space) > 40:
        raise Unsuited
    options = {"kernel_size": 2, "stride": 2} if stride == 2 else {"kernel_size": 3, "padding": 1}
    layer = TRANSPOSED[rank(form)](form.width, groups * per, groups=groups, bias=bias, **options)
    return layered(net, "transposed", layer, x, Form(MAP, groups * per, tuple(stride * n for n in form.space)))


@operation(MAP, often=2)
def again(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """A layer that is there already, or a new one of the same weight."""
    fit = [
        (name, layer)
        for name, layer in net.named_children()
        if type(layer) is CONVOLUTIONS[rank(form)]
        and layer.in_channels == form.width
        and set(layer.stride) == {1}
        and all(p == d * (k // 2) for p, d, k in zip(layer.padding, layer.dilation, layer.kernel_size))
        and layer.padding_mode == "zeros"
    ]
    if not fit:
        raise Unsuited
    name, layer = draw.choice(fit[::-1])
    net.draw.told.pop()
    if not draw.whether():
        return net.step("again", lambda s, x: getattr(s, name)(x), [x], form.of(layer.out_channels))
    other = type(layer)(
        layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding, dilation=layer.dilation,
        groups=layer.groups,
    )  # fmt: skip
    other.weight = layer.weight
    return layered(net, "weight again", other, x, form.of(layer.out_channels))


@operation(MAP)
def functional(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Weights as parameters: sliced, multiplied, in an einsum, grouped, transposed."""
    kind = draw.choice(("two", "grouped", "einsum", "sliced", "transposed", "keyword", "put together"))
    c, out, ones = form.width, draw.choice(WIDTHS), (1,) * len(form.space)
    f, back = FUNCTIONAL[rank(form)], FUNCTIONAL_TRANSPOSED[rank(form)]
    if kind == "grouped":
        groups = draw.divisor(c)
        weight = net.free(groups * draw.choice((1, 2)), c // groups, *(3 for _ in ones))
        run = lambda s, x: f(x, getattr(s, weight), None, 1, 1, 1, groups)  # noqa: E731
        return net.step("functional", run, [x], form.of(len(getattr(net, weight))))
    first, second = net.free(out, c, *ones), net.free(2 * out, c)
    if kind == "transposed":
        weight = net.free(c, out, *ones)
        return net.step("functional", lambda s, x: back(x, getattr(s, weight)), [x], form.of(out))
    runs = {
        "two": lambda s, x: f(x, getattr(s, first)) * f(x.tanh(), getattr(s, first)),
        "keyword": lambda s, x: f(x, weight=getattr(s, first), groups=1, padding=0),
        "einsum": lambda s, x: torch.einsum("bc...,oc->bo...", x, getattr(s, first).flatten(1)),
        "sliced": lambda s, x: f(x, getattr(s, second)[out:, (...), *(None for _ in ones)]),
        "put together": lambda s, x: f(
            x, torch.cat([getattr(s, first), getattr(s, second)[(..., *(None,) * len(ones))]])
        ),
    }
    return net.step("functional", runs[kind], [x], form.of(3 * out if kind == "put together" else out))


class Standardised(nn.Module):
    """A convolution whose weight has mean zero in each row."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias, self.groups, self.dims = layer.weight, layer.bias, layer.groups, layer.weight.dim()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        weight = self.weight - self.weight.mean(tuple(range(1, self.dims)), keepdim=True)
        return FUNCTIONAL[self.dims - 3](x, weight, self.bias, 1, self.weight.shape[2] // 2, 1, self.groups)


@operation(MAP)
def computed_weight(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind = draw.choice(("standardised", "weight norm", "spectral norm", "scaled", "squared"))
    c, out, groups = form.width, draw.choice(WIDTHS), 1
    if kind == "standardised" and draw.whether():
        groups, out = c, c
    layer = CONVOLUTIONS[rank(form)](c, out, 3, padding=1, groups=groups)
    if kind == "standardised":
        layer = Standardised(layer)
    elif kind in ("weight norm", "spectral norm"):
        layer = getattr(parametrizations, kind.replace(" ", "_"))(layer)
        net.same_in_training &= kind == "weight norm"
    else:
        weight, scale, f = (
            net.free(out, c, *(1,) * len(form.space)),
            net.free(1, c, *(1,) * len(form.space)),
            FUNCTIONAL[rank(form)],
        )
        how = (lambda w, v: w * v) if kind == "scaled" else (lambda w, v: w * w)
        run = lambda s, x: f(x, how(getattr(s, weight), getattr(s, scale)))  # noqa: E731
        return net.step("computed weight", run, [x], form.of(out))
    return layered(net, "computed weight", layer, x, form.of(out))


POOLS = {
    "max": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    "mean": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    "adaptive": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
}


@operation(MAP, often=2)
def pooled_map(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind, how = draw.choice(tuple(POOLS)), draw.choice(("same", "halved"))
    if how == "halved" and any(size % 2 or size < 4 for size in form.space):
        raise Unsuited
    if kind == "mean" and how == "same" and min(form.space) < 3:
        raise Unsuited
    half = tuple(size // 2 for size in form.space)
    made = POOLS[kind][rank(form)]
    if kind == "adaptive":
        return layered(net, "pooled", made(half if how == "halved" else 2), x,
                       Form(MAP, form.width, half if how == "halved" else (2,) * len(form.space)))  # fmt: skip
    layer = made(2) if how == "halved" else made(3, 1, 1)
    return layered(net, "pooled", layer, x, Form(MAP, form.width, half if how == "halved" else form.space))


@operation(MAP)
def resized(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    linear = ("linear", "bilinear", "trilinear")[rank(form)]
    mode = draw.choice(("nearest", linear, "reflect", "as another"))
    if mode == "as another":
        y = net.any(lambda other: other.kind == MAP and len(other.space) == len(form.space))
        run = lambda s, x, y: F.interpolate(x, y.shape[2:], mode="nearest")  # noqa: E731
        return net.step("resized", run, [x, y], Form(MAP, form.width, net.steps[y].form.space))
    if math.prod(form.space) > 40 or (mode == "reflect" and rank(form) == 2):
        raise Unsuited
    if mode == "reflect":
        pad = (1, 1) * len(form.space)
        space = tuple(n + 2 for n in form.space)
        return net.step("resized", lambda s, x: F.pad(x, pad, mode="reflect"), [x], Form(MAP, form.width, space))
    space = tuple(2 * n for n in form.space)
    return net.step(
        "resized", lambda s, x: F.interpolate(x, scale_factor=2.0, mode=mode), [x], Form(MAP, form.width, space)
    )


@operation(MAP)
def pixels(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    """Space to channels, channels to space, patches and back; images only."""
    kind = draw.choice(("unshuffle", "shuffle", "unfold", "fold", "both", "view", "channels"))
    c, even = form.width, all(size % 2 == 0 for size in form.space)
    if rank(form) != 1 or (kind in ("unshuffle", "view", "fold") and not even):
        raise Unsuited
    half, double = tuple(n // 2 for n in form.space), tuple(2 * n for n in form.space)
    if c % {"shuffle": 4, "fold": 4, "channels": 2}.get(kind, 1):
        raise Unsuited

    def view(s, x):
        n, c, h, w = x.shape
        return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)

    def both(s, x):
        columns = F.unfold(x, 3, padding=1)
        return F.fold(columns * columns.tanh(), x.shape[2:], (3, 3), padding=1)

    runs = {
        "unshuffle": (lambda s, x: F.pixel_unshuffle(x, 2), Form(MAP, 4 * c, half)),
        "shuffle": (lambda s, x: F.pixel_shuffle(x, 2), Form(MAP, c // 4, double)),
        "unfold": (lambda s, x: F.unfold(x, 3, padding=1).unflatten(2, x.shape[2:]), form.of(9 * c)),
        "fold": (lambda s, x: F.fold(x[:, :, ::2, ::2].flatten(2), x.shape[2:], 2, stride=2), form.of(c // 4)),
        "both": (both, form),
        "view": (view, Form(MAP, 4 * c, half)),
        "channels": (lambda s, x: F.channel_shuffle(x, 2), form),
    }
    return net.step("pixels", runs[kind][0], [x], runs[kind][1])


@operation(MAP, often=2)
def to_tokens(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind = draw.choice(("flat", "permuted", "reshaped"))
    length, back = math.prod(form.space), (0, *range(2, 2 + len(form.space)), 1)
    runs = {
        "flat": lambda s, x: x.flatten(2).mT,
        "permuted": lambda s, x: x.permute(back).flatten(1, -2),
        "reshaped": lambda s, x: x.reshape(x.shape[0], x.shape[1], -1).transpose(-1, -2),
    }
    return net.step("to tokens", runs[kind], [x], Form(TOKENS, form.width, (length,)))


@operation(MAP)
def to_vector(net: RandomNetwork, draw: Draw, x: int, form: Form) -> int:
    kind = draw.choice(("mean", "largest", "flat", "pooled", "squeezed"))
    space, out = tuple(range(2, 2 + len(form.space))), draw.choice(WIDTHS)
    vector = Form(VECTOR, form.width)
    if kind == "flat":
        name = net.add(nn.Linear(form.width * math.prod(form.space), out))
        return net.step("to vector", lambda s, x: getattr(s, name)(x.flatten(1)), [x], Form(VECTOR, out))
    if kind == "pooled":
        name = net.add(POOLS["adaptive"][rank(form)](1))
        return net.step("to vector", lambda s, x: getattr(s, name)(x).flatten(1), [x], vector)
    if kind == "squeezed":
        return net.step("to vector", lambda s, x: x.mean(space, keepdim=True)[(..., *(0 for _ in space))], [x], vector)
    f = torch.mean if kind == "mean" else torch.amax
    return net.step("to vector", lambda s, x: f(x, space), [x], vector)
