"""Calls that tell the places of channels by how long an axis is, narrowed at one size and run at another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.sizes import assert_refused_at
from samples import Net, conv, linear
from torch import nn

import fxprune
from fxprune.errors import NothingToPruneError

TWO, TURNED = [(2, 1), (4, 1)], [(4, 1), (2, 1)]
B = {"b": (48, 4)}


def images(size):
    return torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def narrowed(op, example, **layers):
    """Narrow a network by half; ``op`` gets its layers and images."""
    torch.manual_seed(0)
    layers = {name: each if isinstance(each, nn.Module) else linear(*each) for name, each in layers.items()}
    net = Net(op, a=conv(3, 8), c=conv(3, 8), **layers).double().eval()
    plan = fxprune.plan(fxprune.couple(net, tuple(map(images, example))), keep=0.5)
    snapped = fxprune.snap(net, plan)
    return snapped, fxprune.narrow(snapped, plan)


def refuses(snapped, narrow, example, other):
    assert_refused_at(snapped, narrow, tuple(map(images, example)), tuple(map(images, other)))


def total(y):
    return y.sin().sum(1)


def rows(s, x):
    return s.a(x).flatten(1)[:, None]


def other_rows(s, x):
    return s.c(x).flatten(1)[:, None]


@pytest.mark.parametrize(
    ("op", "other"),
    [
        (lambda s, x, y: rows(s, x).gather(1, other_rows(s, y).argsort(1)), [(8, 1), (4, 1)]),
        (lambda s, x, y: rows(s, x).gather(dim=1, index=other_rows(s, y).argsort(1)), [(8, 1), (4, 1)]),
        (lambda s, x, y: rows(s, x).scatter(1, other_rows(s, y).argsort(1), 0.5), [(4, 1), (2, 1)]),
        (lambda s, x, y: rows(s, x).scatter_add(1, other_rows(s, y).argsort(1), other_rows(s, y)), [(4, 1), (2, 1)]),
    ],
)
def test_a_gather_reads_the_first_places_of_what_is_longer(op, other):
    example = [(4, 1), (4, 1)]
    refuses(*narrowed(lambda s, *xs: total(op(s, *xs)[:, 0]), example), example, other)


def joined(s, x, y):
    return torch.hstack([s.a(x).flatten(1), s.c(y).flatten(1)])


def blocks(s, x, y):
    return torch.block_diag(s.a(x).flatten(1), s.c(y).flatten(1))


def pieces(y):
    return y.flatten(2).unbind(-1)


def repeats(s, x):
    """Repeat the means of channels as often as there are rows."""
    return torch.kron(s.a(x).mean((2, 3)), x.new_ones(1, x.shape[2]))


def places(s, x):
    return s.a(x).permute(0, 2, 1, 3).flatten(1)


@pytest.mark.parametrize(
    ("op", "example", "other", "layers"),
    [
        (lambda s, x, y: s.b(blocks(s, x, y)), TWO, TURNED, B),
        (lambda s, x, y: F.linear(blocks(s, x, y), s.b.weight), TWO, TURNED, B),
        (lambda s, x, y: total(blocks(s, x, y) * s.b(x.mean((0, 2, 3)))), TWO, TURNED, {"b": (3, 48)}),
        (lambda s, x: s.b(torch.kron(x.new_ones(1, x.shape[3]), s.a(x).mean(3).flatten(1))), [(2, 4)], [(4, 2)],
         {"b": (64, 4)}),
        (lambda s, x: total(repeats(s, x).view(x.shape[0], -1, 8)[:, :, 3]), [(1, 1)], [(2, 1)], {}),
        (lambda s, x, y: s.b(torch.cat(pieces(s.a(x)) + pieces(s.c(y)), 1)), TWO, TURNED, B),
        (lambda s, x, y: s.b(torch.cat(s.a(x).split(1, 2) + s.c(y).split(1, 2), 1)[..., 0, 0]), TWO, TURNED, B),
        (lambda s, x, y: total(joined(s, x, y) * s.b(x.mean((2, 3)))), TWO, TURNED, {"b": (3, 48)}),
        (lambda s, x, y: total(joined(s, x, y) + s.b.bias.expand(x.shape[0], -1)), TWO, TURNED, {"b": (3, 48)}),
        (lambda s, x, y: s.b(torch.cat([last(s, x), s.c(y).permute(0, 2, 3, 1).flatten(1)], 1)), TWO, TURNED, B),
        (lambda s, x: total(s.b(places(s, x))), [(2, 4)], [(4, 2)], {"b": nn.BatchNorm1d(64, affine=False)}),
    ],
)  # fmt: skip
def test_lengths_that_trade_places_are_those_of_the_example(op, example, other, layers):
    """As long together as in the example, one is longer and another one shorter."""
    torch.manual_seed(2)
    for layer in layers.values():
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.normal_()
    refuses(*narrowed(op, example, **layers), example, other)


def met(s, x):
    """Make 8 numbers of an image."""
    return s.b(x.mean((0, 2, 3)))


@pytest.mark.parametrize(
    "op",
    [
        lambda s, x: x.repeat_interleave(2, 3).repeat_interleave(x.shape[2], 3),
        lambda s, x: x[..., None].expand(-1, -1, -1, -1, 2).repeat_interleave(x.shape[2], 4).flatten(3),
        lambda s, x: x[..., None].repeat_interleave(2, 4)[..., None].expand(-1, -1, -1, -1, -1, x.shape[2]).flatten(3),
    ],
)
def test_positions_that_meet_channels_are_repeated_as_in_the_example(op):
    model = narrowed(lambda s, x: (op(s, x) * met(s, x)).sum(-1), [(2, 2)], b=(3, 8))
    refuses(*model, [(2, 2)], [(1, 4)])


def turned(y):
    return y.permute(0, 2, 1, 3).flatten(1)


class Turned(nn.Linear):
    def forward(self, x):
        return super().forward(turned(x))


def hooked(layer):
    layer.register_forward_pre_hook(lambda _, args: (turned(args[0]),))
    return layer


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.BatchNorm1d(64), nn.LayerNorm(64), nn.Dropout(), nn.Identity()])
def test_a_layer_with_a_hook_may_do_anything_to_places(layer):
    op = lambda s, x: F.linear(s.d(s.a(x)), s.b.weight)  # noqa: E731
    refuses(*narrowed(op, [(2, 4)], b=(64, 4), d=hooked(layer)), [(2, 4)], [(4, 2)])


@pytest.mark.parametrize("layer", [Turned(64, 4), hooked(nn.Linear(64, 4))])
def test_a_layer_may_flatten_what_its_weight_reads(layer):
    refuses(*narrowed(lambda s, x: s.b(s.a(x)), [(2, 4)], b=layer), [(2, 4)], [(4, 2)])


def last(s, x):
    return s.a(x).permute(0, 2, 3, 1).flatten(1)


@pytest.mark.parametrize(
    ("op", "layers"),
    [
        (lambda s, x: F.group_norm(last(s, x), 2), {}),
        (lambda s, x: s.b(last(s, x)), {"b": nn.GroupNorm(2, 64, affine=False)}),
        (lambda s, x: F.glu(last(s, x)), {}),
        (lambda s, x: s.b(last(s, x)), {"b": nn.GLU(1)}),
    ],
)
def test_a_call_that_cuts_an_axis_in_equal_parts_gets_one_as_long(op, layers):
    refuses(*narrowed(lambda s, x: total(op(s, x)), [(2, 4)], **layers), [(2, 4)], [(3, 3)])


def test_joined_images_that_a_group_norm_cuts_are_as_long_as_in_the_example():
    refuses(*narrowed(lambda s, *xs: total(F.group_norm(joined(s, *xs), 2)), TWO), TWO, TURNED)


@pytest.mark.parametrize("name", ["flat", "relu", "cumsum", "flatten"])
def test_a_function_that_is_not_of_pytorch_may_do_anything_to_places(name):
    """Whatever its name says."""
    library = torch.library.Library("fxprune_tests", "FRAGMENT")
    if not hasattr(torch.ops.fxprune_tests, name):
        library.define(f"{name}(Tensor x, int dim) -> Tensor")
        library.impl(name, lambda x, dim: x.permute(0, 2, 1, 3).flatten(1), "CompositeImplicitAutograd")
    op = getattr(torch.ops.fxprune_tests, name)
    refuses(*narrowed(lambda s, x: s.b(op(s.a(x), 2)), [(2, 4)], b=(64, 4)), [(2, 4)], [(4, 2)])
    refuses(*narrowed(lambda s, x: F.linear(op(s.a(x), 2), s.b.weight), [(2, 4)], b=(64, 4)), [(2, 4)], [(4, 2)])


@pytest.mark.parametrize(
    "op",
    [
        lambda s, x: F.unfold(s.a(x), (x.shape[2], 1)).mean(2)[:, :4],
        lambda s, x: F.unfold(s.a(x), kernel_size=x.shape[2:]).mean(2),
        lambda s, x: F.fold(s.a(x).flatten(2), x.shape[2:], (x.shape[2], 1)).flatten(2).sum(2),
    ],
)
def test_a_window_whose_size_depends_on_an_input_freezes_channels(op):
    with pytest.raises(NothingToPruneError, match="a window over channels"):
        narrowed(lambda s, x: total(op(s, x)), [(1, 1)])


@pytest.mark.parametrize(
    "op",
    [
        lambda s, x: F.fold(s.a(x).flatten(2), (x.shape[2] + 1, x.shape[3] + 1), 2).flatten(2).sum(2),
        lambda s, x: F.fold(F.unfold(s.a(x), 3, padding=1), x.shape[2:], 3, padding=1).flatten(2).sum(2),
        lambda s, x: F.unfold(s.a(x).flatten(0, 1)[:, None], 2).view(x.shape[0], 8, -1).amax(2),
        lambda s, x: F.pixel_shuffle(s.a(x).view(x.shape[0] * 2, 4, *x.shape[2:]), 2).amax((1, 2, 3)).view(-1, 2),
        lambda s, x: nn.ReflectionPad2d(1)(s.a(x).flatten(0, 1)[:, None]).view(x.shape[0], 8, -1).sin().sum(2),
        lambda s, x: F.group_norm(s.a(x), 2).flatten(2).amax(2),
        lambda s, x: F.interpolate(s.a(x).flatten(1, 2)[..., None], scale_factor=2).sum((2, 3)).sin(),
        lambda s, x: torch.column_stack([s.a(x).mean((0, 2, 3)), s.c(x).mean((0, 2, 3))]).sum(0, True).sin(),
    ],
)
def test_a_call_that_leaves_images_binds_no_size(op):
    snapped, narrow = narrowed(lambda s, x: total(op(s, x)), [(2, 4)])
    for shape in ((2, 3, 2, 4), (3, 3, 3, 2)):
        x = torch.rand(*shape, dtype=torch.float64)
        torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-9, atol=1e-12)  # rounding of float64


def test_an_operator_with_arguments_named_as_those_of_pytorch_is_not_its():
    library = torch.library.Library("fxprune_tests", "FRAGMENT")
    if not hasattr(torch.ops.fxprune_tests, "attend"):
        library.define("attend(Tensor query, Tensor key, Tensor value, float? scale=None) -> Tensor")
        library.define("any_of(Tensor self, int[] size) -> Tensor")
        library.impl(
            "attend", lambda q, k, v, scale=None: turned(q) + turned(k) + turned(v), "CompositeImplicitAutograd"
        )
        library.impl("any_of", lambda x, size: x.permute(0, 2, 1, 3).reshape(size), "CompositeImplicitAutograd")
    attend, any_of = torch.ops.fxprune_tests.attend, torch.ops.fxprune_tests.any_of
    for op in (
        lambda s, x: attend(s.a(x), s.a(x), s.a(x)),
        lambda s, x: attend.default(s.a(x), s.a(x), s.a(x)),
        lambda s, x: any_of(s.a(x), [x.shape[0], -1]),
        lambda s, x: any_of.default(s.a(x), [x.shape[0], -1]),
    ):
        made = narrowed(lambda s, x, op=op: F.linear(op(s, x), s.b.weight), [(2, 4)], b=(64, 4))
        refuses(*made, [(2, 4)], [(4, 2)])


class Standardised(nn.Conv2d):
    """Flattens its weight, and no image."""

    def forward(self, x):
        weight = F.batch_norm(self.weight.flatten(1)[None], None, None, training=True).view_as(self.weight)
        return F.conv2d(x, weight, self.bias)


def test_a_layer_that_flattens_its_weight_binds_no_size():
    snapped, narrow = narrowed(lambda s, x: total(s.b(s.a(x)).mean(3)), [(2, 4)], b=Standardised(8, 4, 1))
    x = torch.rand(3, 3, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-9, atol=1e-12)  # rounding of float64
