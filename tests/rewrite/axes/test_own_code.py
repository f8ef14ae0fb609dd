"""Layers, hooks and operators of a user's own, narrowed at one size and run at another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.sizes import assert_refused_at
from samples import Net, conv, linear
from torch import nn

import fxprune


def images(shape):
    return torch.rand(shape[0], 3, *shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def narrowed(op, example, **layers):
    """Narrow a network by half; ``op`` gets its layers and images."""
    torch.manual_seed(0)
    layers = {"b": linear(8, 4), "small": nn.Conv2d(8, 8, 3, 16, 1), **layers}
    net = Net(lambda s, x: op(s, x).sum(1), a=conv(3, 8), **layers).double().eval()
    plan = fxprune.plan(fxprune.couple(net, images(example)), keep=0.5)
    snapped = fxprune.snap(net, plan)
    return snapped, fxprune.narrow(snapped, plan)


def of_rows(s, y):
    """Read channels behind the places of a row, which are positions at 1x1 only."""
    return s.b(y.view(y.shape[0], -1, 8).amax(1))


class Own(nn.Conv2d):
    """A convolution behind which code of its own runs."""

    def __init__(self, width, after):
        super().__init__(width, 8, 1)
        self.after = after

    def forward(self, x):
        return self.after(super().forward(x))


class Weighted(nn.Conv2d):
    """Flattens, and multiplies by a vector as long."""

    def __init__(self, width, length):
        super().__init__(width, 8, 1)
        self.vector = nn.Parameter(torch.randn(length))

    def forward(self, x):
        return super().forward(x).transpose(1, 2).flatten(1) * self.vector


class Twice(nn.Conv2d):
    """Reads two tensors, of which one alone has positions."""

    def forward(self, x, y):
        return (super().forward(x) * y.mean(1, keepdim=True)).flatten(1)


class Taught(nn.Conv2d):
    """Has a weight for each row of an image."""

    def forward(self, x):
        return F.conv2d(x, self.weight.repeat(x.shape[2], 1, 1, 1))


class RowByRow(nn.Conv2d):
    """Convolves each row of an image by itself; at one row, its views are none."""

    def forward(self, x):
        rows = x.reshape(-1, x.shape[1], 1, x.shape[3])
        return super().forward(rows).reshape(x.shape[0], -1, *x.shape[2:])


def flat(y):
    return y.flatten(1)


def flat_and_whole(y):
    return y.flatten(1), y


def beside_batch(y):
    return y.transpose(0, 1).flatten(0, 1)


def cut_by_eight(y):
    return y.view(y.shape[0], -1, 8).amax(1)


def named_by_height(y):
    return y.view(y.shape[2], y.shape[1], -1)


def in_squares(y):
    return y.reshape(-1, y.shape[1], y.shape[2] * y.shape[2]).mean(2)


def in_windows(y):
    return y.reshape(-1, y.shape[1], y.shape[2] // 4, 4, y.shape[3]).mean((2, 3, 4))


def in_long_windows(y):
    return y.reshape(-1, y.shape[1], max(y.shape[2] // 8, 1) * 8, y.shape[3]).mean((2, 3))


def cropped(y):
    return y[:, :, :4, :4].reshape(-1, y.shape[1], 16).amax(2)


def unshuffled(y):
    return F.pixel_unshuffle(y, y.shape[2])


def windows(y):
    return F.unfold(y, (y.shape[2], 1))


@pytest.mark.parametrize(
    ("op", "layer", "example", "other"),
    [
        (lambda s, x: of_rows(s, s.k(x)), Own(3, flat), (2, 1, 1), (2, 2, 1)),
        (lambda s, x: of_rows(s, s.k(s.a(x))), Own(8, flat), (2, 1, 1), (2, 2, 1)),
        (lambda s, x: of_rows(s, s.k(x)[0]), Own(3, flat_and_whole), (2, 1, 1), (2, 2, 1)),
        (lambda s, x: of_rows(s, s.k(s.a(x))[0]), Own(8, flat_and_whole), (2, 1, 1), (2, 2, 1)),
        (lambda s, x: of_rows(s, s.k(s.a(x).mean((2, 3), True), x)), Twice(8, 8, 1), (2, 1, 1), (2, 2, 1)),
        (lambda s, x: s.b(s.k(x).mean((1, 2)).view(-1, 8)), Own(3, beside_batch), (1, 2, 4), (3, 2, 4)),
        (lambda s, x: s.b(s.k(s.a(x)).mean((1, 2)).view(-1, 8)), Own(8, beside_batch), (1, 2, 4), (3, 2, 4)),
        (lambda s, x: s.b(s.k(x)), Own(3, cut_by_eight), (2, 2, 4), (2, 2, 1)),
        (lambda s, x: s.b(s.k(s.a(x))), Own(8, cut_by_eight), (2, 2, 4), (2, 2, 1)),
        (lambda s, x: s.b(s.k(s.a(x)).amax(2)), Own(8, named_by_height), (2, 2, 4), (4, 2, 4)),
        (lambda s, x: s.b(s.k(s.a(x)).amax((2, 3))), RowByRow(8, 8, 1), (2, 1, 4), (2, 2, 4)),
        (lambda s, x: of_rows(s, s.k(x).amax((2, 3))), Own(3, unshuffled), (2, 2, 2), (2, 1, 1)),
        (lambda s, x: of_rows(s, s.k(x).amax(2)), Own(3, windows), (2, 2, 4), (2, 1, 4)),
        (lambda s, x: of_rows(s, s.k(s.small(s.a(x)))), Own(8, flat), (2, 4, 4), (2, 32, 32)),
        (
            lambda s, x: of_rows(s, s.k(x)),
            Own(3, lambda y: F.max_pool2d(y, 4, ceil_mode=True).flatten(1)),
            (2, 1, 1),
            (2, 8, 4),
        ),
        (
            lambda s, x: s.b(s.k(s.a(x)).amax((2, 3)).view(x.shape[0], 8, -1).amax(2)),
            Taught(8, 8, 1),
            (2, 1, 1),
            (2, 2, 1),
        ),
        (lambda s, x: s.b(s.k(s.a(x))), Own(8, in_squares), (2, 4, 4), (2, 4, 8)),
        (lambda s, x: s.b(s.k(s.a(x))), Own(8, in_windows), (2, 4, 4), (2, 6, 4)),
        (lambda s, x: s.b(s.k(s.a(x))), Own(8, in_long_windows), (2, 8, 4), (2, 4, 4)),
        (lambda s, x: s.b(s.k(s.a(x))), Own(8, cropped), (2, 4, 4), (4, 2, 4)),
        (lambda s, x: s.k(x).sin(), Own(3, lambda y: y.flatten(1)[:, :8]), (2, 1, 1), (2, 2, 1)),
        (lambda s, x: F.linear(s.k(x), s.k.vector[None]), Weighted(3, 64), (2, 2, 4), (2, 4, 2)),
        (lambda s, x: F.linear(s.k(s.a(x)), s.k.vector[None]), Weighted(8, 64), (2, 2, 4), (2, 4, 2)),
    ],
)
def test_an_own_layer_that_lays_out_channels_anew_runs_at_the_sizes_of_the_example(op, layer, example, other):
    assert_refused_at(*narrowed(op, example, k=layer), (images(example),), (images(other),))


@pytest.mark.parametrize("width", [3, 8])
def test_an_own_layer_whose_weights_make_channels_binds_no_batch(width):
    """Whether an image or channels of another layer go into it."""
    snapped, narrow = narrowed(lambda s, x: s.b(s.k(x if width == 3 else s.a(x))), (2, 1, 1), k=Own(width, flat))
    torch.testing.assert_close(narrow(images((3, 1, 1))), snapped(images((3, 1, 1))), rtol=1e-9, atol=1e-12)  # rounding


def test_a_hook_that_leaves_flattened_channels_binds_how_many_they_are_alone():
    layer = nn.ReLU()
    layer.register_forward_hook(lambda module, given, made: made * 2)
    snapped, narrow = narrowed(lambda s, x: s.k(s.a(x).flatten(1)).view(x.shape[0], 8, -1).amax(2), (2, 2, 4), k=layer)
    for shape in ((3, 2, 4), (2, 4, 2), (1, 8, 1)):
        torch.testing.assert_close(narrow(images(shape)), snapped(images(shape)), rtol=1e-9, atol=1e-12)  # rounding


def test_the_results_of_an_own_layer_are_those_of_any_tuple():
    snapped, narrow = narrowed(lambda s, x: s.c(s.k(x)[0]), (2, 2, 4), k=Own(3, flat_and_whole), c=linear(64, 4))
    torch.testing.assert_close(narrow(images((2, 2, 4))), snapped(images((2, 2, 4))), rtol=1e-9, atol=1e-12)  # rounding


def test_a_hook_is_code_of_its_own():
    layer = nn.Conv2d(3, 8, 1)
    layer.register_forward_hook(lambda module, given, made: made.flatten(1))
    made = narrowed(lambda s, x: of_rows(s, s.k(x)), (2, 1, 1), k=layer)
    assert_refused_at(*made, (images((2, 1, 1)),), (images((2, 2, 1)),))


@pytest.mark.parametrize("name", ["repeats", "lists"])
def test_an_own_operator_may_bring_positions_by_a_number_or_in_a_list(name):
    library = torch.library.Library("fxprune_tests", "FRAGMENT")
    if not hasattr(torch.ops.fxprune_tests, name):
        library.define({"repeats": "repeats(Tensor x, int n) -> Tensor", "lists": "lists(Tensor x) -> Tensor[]"}[name])
        code = {"repeats": lambda x, n: x.repeat_interleave(n, 1), "lists": lambda x: [x.flatten(1), x]}[name]
        library.impl(name, code, "CompositeImplicitAutograd")
    op = getattr(torch.ops.fxprune_tests, name)
    calls = {
        "repeats": lambda s, x: of_rows(s, op(s.a(x).mean((2, 3)), x.shape[2])),
        "lists": lambda s, x: of_rows(s, op(s.a(x))[0]),
    }
    assert_refused_at(*narrowed(calls[name], (2, 1, 1)), (images((2, 1, 1)),), (images((2, 2, 1)),))


LEAVE = (
    lambda y: y.view(y.shape).relu(),
    lambda y: F.layer_norm(y.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2),
    lambda y: F.group_norm(y, 2),
    lambda y: y * y.mean((2, 3), keepdim=True).sigmoid(),
    lambda y: y.flatten(2).transpose(1, 2).relu().mT[..., None],
    lambda y: y.flatten(2).softmax(2).view(y.shape),
    lambda y: F.unfold(y, 3, padding=1).view(y.shape[0], 8, 9, -1),
    lambda y: F.pixel_unshuffle(F.pad(y, (0, 1, 0, 1)), 1),
)
# PyTorch computes it by other operators at 1x1.
PRODUCT = (lambda y: F.linear(y.permute(0, 2, 3, 1), torch.eye(8, dtype=y.dtype)).permute(0, 3, 1, 2),)


@pytest.mark.parametrize(
    ("after", "example"), [(op, (2, 2, 4)) for op in LEAVE + PRODUCT] + [(op, (1, 1, 1)) for op in LEAVE]
)
def test_an_own_layer_that_leaves_channels_binds_no_size(after, example):
    snapped, narrow = narrowed(lambda s, x: s.b(s.k(s.a(x)).flatten(2).amax(2)), example, k=Own(8, after))
    for shape in ((2, 2, 4), (3, 4, 2), (1, 1, 1)):
        torch.testing.assert_close(narrow(images(shape)), snapped(images(shape)), rtol=1e-9, atol=1e-12)  # rounding


def test_an_own_layer_at_one_size_takes_any_batch():
    """A vector as long as its flattened image has one size."""
    snapped, narrow = narrowed(lambda s, x: F.linear(s.k(x), s.k.vector[None]), (2, 2, 4), k=Weighted(3, 64))
    for shape in ((1, 2, 4), (3, 2, 4)):
        torch.testing.assert_close(narrow(images(shape)), snapped(images(shape)), rtol=1e-9, atol=1e-12)  # rounding
