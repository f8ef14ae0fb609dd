"""Own code of networks with several inputs, or other ones than images, at other sizes of these."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from helpers.rewrites.sizes import assert_refused_at
from samples import Net, conv, linear
from torch import nn

import fxprune


def images(*shape):
    return torch.rand(shape[0], 3, *shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def narrowed(net, *given):
    torch.manual_seed(0)
    net = net.double().eval()
    plan = fxprune.plan(fxprune.couple(net, given), keep=0.5)
    snapped = fxprune.snap(net, plan)
    return snapped, fxprune.narrow(snapped, plan)


def assert_same(snapped, narrow, *given):
    torch.testing.assert_close(narrow(*given), snapped(*given), rtol=1e-9, atol=1e-12)  # rounding of float64


class Own(nn.Conv2d):
    """A convolution behind which code of its own runs."""

    def __init__(self, width, after):
        super().__init__(width, 8, 1)
        self.after = after

    def forward(self, x, *more):
        return self.after(super().forward(x), *more)


def flat(y):
    return y.flatten(1)


class Images(NamedTuple):
    """Images in a tuple with a name."""

    x: torch.Tensor


@pytest.mark.parametrize(
    ("read", "layer", "given", "example", "other"),
    [
        (lambda s, xs: s.k(xs[0]), Own(3, flat), lambda x: [x], (2, 2, 2), (2, 1, 1)),
        (lambda s, xs: s.k(s.a(xs["a"])), Own(8, flat), lambda x: {"a": x}, (2, 2, 2), (2, 1, 1)),
        (
            lambda s, xs: s.k(xs.x, xs.x.shape[2]),
            Own(3, lambda y, times: y.mean((2, 3)).repeat_interleave(times, 1)),
            Images,
            (2, 1, 1),
            (2, 2, 1),
        ),
    ],
)
def test_inputs_in_a_list_a_dict_or_a_tuple_are_guarded(read, layer, given, example, other):
    net = Net(lambda s, xs: s.b(read(s, xs).view(2, -1, 8).amax(1)), a=conv(3, 8), b=linear(8, 4), k=layer)
    made = narrowed(net, given(images(*example)))
    assert_refused_at(*made, (given(images(*example)),), (given(images(*other)),))


class Turned(nn.Linear):
    """Takes the places of tokens for eight."""

    def forward(self, x):
        return super().forward(x).mT.reshape(len(x), -1, 8).amax(1)


class Words(nn.Module):
    """Tokens, beside images or alone."""

    def __init__(self, turned):
        super().__init__()
        self.table, self.read, self.last = nn.Embedding(10, 8), turned, nn.Linear(8, 4)
        self.a = nn.Conv2d(3, 8, 1)

    def forward(self, words, images=None):
        found = self.last(self.read(self.table(words)))
        return found if images is None else found + self.last(self.a(images).amax((2, 3)))


def words(count, length):
    return torch.arange(count * length).view(count, length) % 10


@pytest.mark.parametrize("more", [(), (images(2, 4, 4),)])
def test_the_length_of_a_sequence_may_bind_own_code(more):
    made = narrowed(Words(Turned(8, 8)), words(2, 8), *more)
    assert_refused_at(*made, (words(2, 8), *more), (words(2, 4), *more))


class Shifted(nn.Conv2d):
    """Shifts channels between the four frames of a clip."""

    def forward(self, x):
        y = super().forward(x)
        clips = y.view(-1, 4, *y.shape[1:])
        return torch.cat([clips[:, :1], clips[:, :-1]], 1).view(y.shape)


def test_own_code_takes_clips_of_more_samples():
    net = Net(lambda s, x: s.b(s.k(s.a(x)).amax((2, 3))), a=conv(3, 8), b=linear(8, 4), k=Shifted(8, 8, 1))
    made = narrowed(net, images(4, 2, 4))
    for shape in ((4, 2, 4), (8, 3, 2), (12, 1, 1)):
        assert_same(*made, images(*shape))


class Beside(nn.Module):
    """Images beside words, as vectors."""

    def __init__(self, after):
        super().__init__()
        self.k, self.a, self.t, self.last = Own(8, after), nn.Conv2d(3, 8, 1), nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, x, t):
        return self.last(self.k(self.a(x)).amax((2, 3)) + self.t(t).mean(1))


def text(*shape):
    return torch.rand(*shape, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_own_code_of_one_input_binds_no_other():
    made = narrowed(Beside(lambda y: y.flatten(2).relu().view(y.shape)), images(2, 4, 4), text(2, 3))
    for given in ((images(2, 6, 5), text(2, 3)), (images(3, 4, 4), text(3, 6))):
        assert_same(*made, *given)


def test_an_input_without_samples_may_bind_own_code():
    net = Net(
        lambda s, x, t: s.b(s.k((s.a(x).mean((2, 3))[:, :, None] * t)[..., None]).view(2, -1, 8).amax(1)),
        a=conv(3, 8),
        b=linear(8, 4),
        k=Own(8, flat),
    )
    points = torch.rand(2, dtype=torch.float64)
    made = narrowed(net, images(2, 4, 4), points[:1])
    assert_refused_at(*made, (images(2, 4, 4), points[:1]), (images(2, 4, 4), points))


@pytest.mark.parametrize(
    ("after", "given", "other"),
    [
        (lambda y, z: y.reshape(-1, *z.shape[1:]).mean((2, 3)), images(2, 4, 4), (2, 8, 8)),
        (lambda y, z: y.reshape(len(z), y.shape[1], -1).mean(2), text(2, 4), (4, 4, 4)),
    ],
)
def test_inputs_of_like_lengths_change_apart(after, given, other):
    def forward(s, x, z):
        return s.b(s.k(s.a(x), s.a(z) if z.dim() == 4 else z)).sum(0)

    net = Net(forward, a=conv(3, 8), b=linear(8, 4), k=Own(8, after))
    made = narrowed(net, images(2, 4, 4), given)
    assert_refused_at(*made, (images(2, 4, 4), given), (images(*other), given))
