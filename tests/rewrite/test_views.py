"""Views whose sizes agree with channels by chance, or take what others leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.other_sizes import assert_same, images, made
from samples import Net, conv, free, linear
from torch import nn

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.passes.verify.compare import verify
from fxprune.plans import Plan


def by_width(s, y):
    return torch.softmax(y.view(y.shape[0], y.shape[3], -1), 1).square().sum((1, 2))


def without_permutation(s, y):
    return s.head(y.reshape(y.shape[0], -1, y.shape[1]).sigmoid().mean(1))


def taken_apart(s, y):
    return y.flatten(1).view(y.shape[0], y.shape[2], -1).softmax(1).square().sum((1, 2))


def of_squares(s, y):
    return y.reshape(y.shape[0], -1, y.shape[2] * y.shape[2]).softmax(1).square().sum((1, 2))


def merged_with_positions(s, y):
    return y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, y.shape[2] // 2).softmax(2).square().sum((1, 2))


@pytest.mark.parametrize(
    ("op", "width", "kept"),
    [
        (by_width, 8, 4),
        (without_permutation, 64, 32),
        (taken_apart, 8, 4),
        (of_squares, 8, 4),
        (merged_with_positions, 8, 2),
    ],
)
def test_sizes_that_are_as_many_as_channels_are_guarded(op, width, kept):
    snapped, narrow = made(op, width, kept=kept, head=linear(width, 4))
    assert_same(snapped, narrow, (8, 8))
    assert snapped(images(6, 12)).isfinite().all()
    with pytest.raises(SpecialisedError, match=r"size (. of|in) `(view|reshape).*` was .*: capture again"):
        narrow(images(6, 12))


@pytest.mark.parametrize(
    "cut",
    [
        lambda y, n: y[:, : n // 4],
        lambda y, n: y.narrow(1, n // 4, 2),
        lambda y, n: F.pad(y, (0, 0, 0, 0, 0, n - 15)),
        lambda y, n: y.slice_scatter(y[:, -2:] * 2, 1, n // 8, n // 8 + 2),
    ],
)
def test_places_named_by_a_length_that_agrees_by_chance_are_guarded(cut):
    """The length is read where no channel leaves; another group is cut by it."""
    net = Net(lambda s, x: shares_of_rows(cut(s.e(x), by_columns(s.a(x)).shape[1])), a=conv(3, 8), e=conv(3, 8))
    net = net.double().eval()
    coupling = fxprune.couple(net, images(8, 8))
    widths = {name: group.width // 2 for name, group in coupling.groups.items() if name.startswith("e")}
    plan = fxprune.plan(coupling, widths=widths)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert_same(snapped, narrow, (8, 8), (12, 8))
    assert snapped(images(8, 16)).isfinite().all()
    with pytest.raises(SpecialisedError, match=r"was .*: capture again"):
        narrow(images(8, 16))


def by_columns(y):
    return y.view(y.shape[0], y.shape[3], y.shape[2], -1)


def shares_of_rows(y):
    return y.softmax(1).square().sum((1, 2))


@pytest.mark.parametrize(
    "op",
    [
        lambda s, y: shares_of_rows(y.reshape(-1, 8, 64)),
        lambda s, y: shares_of_rows(y.reshape(2, 8, 64)),
        lambda s, y: shares_of_rows(y.reshape(-1, 8, y.shape[2] ** 2)),
        lambda s, y: s.head(y.view(-1, 512)),
        lambda s, y: s.head(y.flatten(1).view(-1, 512)),
    ],
)
def test_positions_stated_beside_an_open_batch_are_guarded(op):
    """At other sizes of images the batch takes what is left, and rows hold parts of channels."""
    snapped, narrow = made(op, kept=4, head=linear(512, 4))
    assert_same(snapped, narrow, (8, 8))
    other = torch.rand(4, 3, 4, 8, dtype=torch.float64)
    assert snapped(other).isfinite().all()
    with pytest.raises(
        SpecialisedError, match=r"the size of axes .* before `(view|reshape).*`.* was .*: capture again"
    ):
        narrow(other)


@pytest.mark.parametrize(
    ("op", "batch", "other"),
    [
        (lambda y: y.reshape(-1, 8, 16), 2, (2, 8, 16)),  # in one run: a row holds two channels
        (lambda y: y.reshape(2, 8, -1), 1, (4, 8, 8)),
        (lambda y: y.reshape(8, 8, 16), 2, (4, 4, 8)),
        (lambda y: y.reshape(-1, 8, y.shape[2] * 2), 2, (2, 4, 16)),
        (lambda y: y.flatten().view(-1, 8, 64), 2, (4, 4, 8)),
        (lambda y: y.flatten(0, 1).view(-1, 8, 64), 1, (4, 4, 8)),
        (lambda y: y.flatten(1).unflatten(1, (-1, 64)), 2, (4, 4, 8)),
    ],
)
def test_positions_that_join_channels_in_one_run_are_guarded(op, batch, other):
    net = Net(lambda s, x: shares_of_rows(op(s.a(x))), a=conv(3, 8)).double().eval()
    coupling = fxprune.couple(net, torch.rand(batch, 3, 8, 8, dtype=torch.float64))
    width = coupling.groups["a.weight"].width
    plan = fxprune.plan(coupling, widths={"a.weight": width // 2}, method="even")
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    x, other = (torch.rand(size[0], 3, *size[1:], dtype=torch.float64) for size in ((batch, 8, 8), other))
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-9, atol=1e-12)
    assert snapped(other).isfinite().all()
    with pytest.raises(SpecialisedError, match=r"was .*: capture again"):
        narrow(other)


@pytest.mark.parametrize(
    ("op", "others"),
    [
        (lambda y: y.view(y.shape[0], y.shape[2], 8, y.shape[3]), ()),
        (lambda y: y.view(y.shape[0], -1, y.shape[1], y.shape[3]), ()),
        (lambda y: y.view(y.shape[0] * y.shape[2], y.shape[1], -1), ()),
        (lambda y: y.flatten(1).view(y.shape[0], y.shape[2], y.shape[1], -1), ()),
        (lambda y: y.view(y.shape[0], -1, *y.shape[1:]), (1, 2)),
        (lambda y: y.permute(0, 2, 3, 1).reshape(-1, 8).view(y.shape[0], -1, y.shape[3], 8), (1, 2)),
    ],
)
def test_an_axis_of_length_one_that_crosses_channels_is_guarded(op, others):
    net = Net(lambda s, x: shares_of_rows(op(s.a(x)).flatten(2)), a=conv(3, 8)).double().eval()
    plan = fxprune.plan(fxprune.couple(net, torch.rand(1, 3, 1, 4).double()), keep=0.5, method="even")
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert verify(snapped, narrow, torch.rand(1, 3, 1, 4).double(), batches=(3,)).passed
    for height in others:
        assert verify(snapped, narrow, torch.rand(2, 3, height, 4).double(), batches=()).passed
    if not others:
        assert snapped(images(2, 4)).isfinite().all()
        with pytest.raises(SpecialisedError, match=r"the size of axes .* is what it asks for was True"):
            narrow(images(2, 4))


def in_two_heads(y):
    return y.view(len(y), 2, 4, -1).amax((1, 2, 3))[:, None, None]


def pooled(y):
    return F.avg_pool2d(y, 4)


def grown(y, height):
    return y.mean((2, 3), True).expand(-1, -1, height, -1)


def in_pairs(y):
    return torch.cat([y, y], 2).reshape(len(y), y.shape[2] * 2, 8, -1).transpose(1, 2)


@pytest.mark.parametrize(
    ("op", "example", "other"),
    [
        (lambda s, y: y.view(y.shape[2], y.shape[1], y.shape[0], y.shape[3]), (4, 4, 4), (2, 8, 4)),
        (lambda s, y: y.reshape(4, 8, y.shape[0], y.shape[3]), (4, 4, 4), (5, 4, 4)),
        (lambda s, y: y.reshape(-1, 1, y.shape[0] * 32, y.shape[3]), (2, 8, 4), (1, 8, 4)),
        (lambda s, y: y.flatten(1, 2).mT.unflatten(2, (y.shape[1] * y.shape[2] // 4, 4)), (3, 8, 2), (3, 9, 2)),
        (lambda s, y: y.flatten().unflatten(0, (-1, y.shape[3] * 16)).view(-1, 8, 8), (2, 8, 4), (4, 8, 2)),
        (lambda s, y: s.head(y.flatten(0, 3))[None, :, None], (1, 8, 8), (2, 4, 8)),
        (lambda s, y: s.head(s.flat(y))[None, :, None], (2, 8, 4), (4, 2, 8)),
        (lambda s, y: s.head(y.flatten(0, 1).flatten().relu())[None, :, None], (2, 8, 4), (4, 8, 2)),
        (lambda s, y: in_pairs(y.view(y.shape[3], y.shape[1], y.shape[0], 1)), (2, 1, 1), (3, 1, 1)),
        (lambda s, y: y.flatten().t().unflatten(0, (y.shape[3], len(y) * 32))[..., None], (2, 4, 4), (2, 4, 8)),
        (lambda s, y: s.head(y.flatten(1).repeat(1, 2)[:, :512])[..., None], (2, 8, 8), (2, 8, 12)),
        (lambda s, y: s.head(y.flatten(0, 1).flatten(0, 1).unflatten(0, (-1, len(y) * 64)).mT), (8, 16, 4), (8, 32, 4)),
        (lambda s, y: in_two_heads(y) * y.flatten(1)[:, :8, None], (2, 1, 2), (2, 3, 2)),
        (lambda s, y: pooled(y.view(len(y) * 2, 4, *y.shape[2:])).flatten(1)[:, :4, None], (2, 4, 8), (2, 8, 8)),
        (lambda s, y: pooled(y).flatten(1)[:, :4, None], (2, 4, 4), (2, 8, 4)),
        (lambda s, y: F.adaptive_avg_pool2d(y, (None, 1)).flatten(1)[:, :16, None], (2, 4, 4), (2, 8, 4)),
        (lambda s, y: F.adaptive_avg_pool2d(y, y.shape[2] // 4).flatten(1)[:, :4, None], (2, 4, 4), (2, 8, 4)),
        (lambda s, y: y.mean((2, 3), True).expand_as(y).flatten(1)[:, 2:8, None], (2, 1, 1), (2, 3, 1)),
        (lambda s, y: grown(y, y.shape[2]).flatten(1)[:, :4, None], (2, 1, 1), (2, 3, 1)),
        (lambda s, y: (y * y.mean((2, 3), True)).flatten(1)[:, :16, None], (2, 4, 4), (2, 8, 4)),
        (lambda s, y: s.pool(y).flatten(1)[:, :16, None], (2, 4, 4), (2, 8, 4)),
        (lambda s, y: y.unflatten(2, (-1, 4)).mean((3, 4)).flatten(1)[:, :4, None], (2, 4, 4), (2, 8, 4)),
        (lambda s, y: y.mean((2, 3)).repeat(1, y.shape[2])[:, -8:, None], (2, 4, 4), (2, 3, 4)),
        (
            lambda s, y: y.view(len(y), 2, 4, -1).mean(3)[:, : y.shape[2] // 2].mT.flatten(1)[:, :4, None],
            (2, 4, 2),
            (2, 3, 2),
        ),
        (lambda s, y: F.interpolate(y, scale_factor=0.5, mode="area").flatten(1)[:, :32, None], (2, 8, 8), (2, 8, 4)),
        (lambda s, y: s.up(y).flatten(1)[:, :32, None], (2, 8, 8), (2, 8, 4)),
        (lambda s, y: y.flatten(1, 2)[:, :4], (2, 1, 1), (2, 2, 1)),
        (lambda s, y: y.unflatten(3, (4, -1)).mean((2, 3)).flatten(1)[:, :4, None], (2, 4, 4), (2, 4, 8)),
    ],
)
def test_views_that_agree_with_channels_by_chance_are_guarded(op, example, other):
    layers = {"head": linear(512, 4), "flat": nn.Flatten(0)}
    layers |= {"pool": nn.AdaptiveMaxPool2d((None, 1)), "up": nn.Upsample(scale_factor=0.5, mode="area")}
    net = Net(lambda s, x: shares_of_rows(op(s, s.a(x)).flatten(2)), a=conv(3, 8), **layers)
    narrow_at(net.double().eval(), example, other, refused=True)


def behind_a_linear_layer(s, x):
    """The layer views its input as a matrix, where an image of one position has no axis of its own."""
    return s.mix(s.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).flatten(1)[:, :4, None]


def cut_from_a_parameter(s, x):
    shift = s.p[:, :, : x.shape[2]].flatten(1)[:, :8]
    return ((s.a(x) + s.p[:, :, :1]).sigmoid().mean((1, 2, 3)) * shift.square().sum())[:, None, None]


@pytest.mark.parametrize(("op", "example", "other"), [(behind_a_linear_layer, 1, 2), (cut_from_a_parameter, 4, 2)])
def test_positions_of_layers_and_parameters_are_no_fixed_lengths(op, example, other):
    net = Net(lambda s, x: shares_of_rows(op(s, x)), a=conv(3, 8), mix=linear(8, 8), p=free(1, 8, 16, 1))
    plan = fxprune.plan(fxprune.couple(net.double().eval(), images(example, 1)), keep=0.5, seed=3)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert_same(snapped, narrow, (example, 1))
    assert snapped(images(other, 1)).isfinite().all()
    with pytest.raises(SpecialisedError, match=r"was .*: capture again"):
        narrow(images(other, 1))


def test_the_length_of_channels_by_chance_is_read_where_all_stay():
    def op(s, x):
        y = s.a(x).view(len(x), x.shape[3], 8, -1)
        return shares_of_rows(y.flatten(2) / y.shape[1])

    net = Net(op, a=conv(3, 8)).double().eval()
    plan = fxprune.plan(fxprune.couple(net, images(8, 8)), widths={"a.weight": 8})
    assert_same(net, fxprune.narrow(net, plan), (8, 8), (6, 12))


def in_heads(y):
    return y.flatten(2).unflatten(1, (2, 4))


def again(y):
    """Merge heads with their channels, and part them again."""
    return y.flatten(1, 2).relu().view(y.shape[0], 2, 4, -1)


def attended(y):
    return ((y.mT @ y).softmax(-1) @ y.mT).mT


def rotated(q, k, v):
    return torch.cat([q[:, :1], k[:, 1:]], 1) + torch.stack([v, -q], 3).amax(3)


def in_three(y):
    return y.flatten(2).repeat(1, 3, 1).view(y.shape[0], 3, 2, 4, -1)


def pooled_in_heads(y):
    """As many positions as heads, of which a convolution and a pool leave four."""
    y = F.max_pool2d(F.pad(y, (0, 1, 0, 1)), 2)
    return y.flatten(2).transpose(1, 2)[:, :, None].squeeze(2)


def excited(y):
    return F.layer_norm(y * y.mean(2, keepdim=True).sigmoid(), (4,)).roll(1, 1).flip(1).clone()


def in_patches(y):
    return y.reshape(y.shape[0] * 8 * (y.shape[2] // 2), 2, y.shape[3] // 2, 2).transpose(1, 2)


@pytest.mark.parametrize(
    ("op", "example", "other"),
    [
        (lambda s, y: y.flatten().view(y.shape), (1, 4, 4), (3, 2, 5)),
        (lambda s, y: y.flatten(1).relu().view(y.shape[0], 8, -1), (1, 4, 4), (3, 2, 5)),
        (lambda s, y: s.head(y.flatten(1))[..., None], (1, 8, 8), (3, 4, 16)),
        (lambda s, y: y.view(y.shape[0], y.shape[2] * 8, -1).relu().view(y.shape[0], 8, -1), (2, 4, 4), (3, 2, 4)),
        (lambda s, y: in_patches(y).reshape(y.shape[0], 8, -1, 4), (2, 4, 4), (3, 6, 2)),
        (lambda s, y: again(attended(in_heads(y))), (2, 2, 2), (3, 4, 2)),
        (lambda s, y: again(F.scaled_dot_product_attention(*[in_heads(y)] * 3)), (2, 2, 2), (3, 4, 2)),
        (lambda s, y: again(rotated(*in_three(y).unbind(1))), (2, 2, 2), (3, 4, 2)),
        (lambda s, y: again(excited(in_heads(y).permute(0, 1, 3, 2)).mT), (2, 2, 2), (3, 4, 2)),
        (lambda s, y: again(pooled_in_heads(F.adaptive_avg_pool2d(y, 4))), (2, 4, 4), (3, 4, 8)),
        (lambda s, y: again(pooled_in_heads(F.adaptive_max_pool2d(y, 4)).chunk(2, 1)[0]), (2, 4, 4), (3, 4, 8)),
    ],
)
def test_views_that_keep_channels_run_at_other_sizes(op, example, other):
    net = Net(lambda s, x: shares_of_rows(op(s, s.a(x)).flatten(2)), a=conv(3, 8), head=linear(512, 4))
    narrow_at(net.double().eval(), example, other, refused=False)


def narrow_at(net, example, other, *, refused):
    example, other = (torch.rand(size[0], 3, *size[1:], dtype=torch.float64) for size in (example, other))
    coupling = fxprune.couple(net, example)
    width = coupling.groups["a.weight"].width
    plan = Plan(coupling, {"a.weight": np.arange(width) % (width // 2)})
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    torch.testing.assert_close(narrow(example), snapped(example), rtol=1e-9, atol=1e-12)  # rounding of float64
    assert snapped(other).isfinite().all()
    if refused:
        with pytest.raises(SpecialisedError, match=r"was .*: capture again"):
            narrow(other)
    else:
        torch.testing.assert_close(narrow(other), snapped(other), rtol=1e-9, atol=1e-12)


def test_positions_stated_in_front_of_channels_need_no_guard():
    snapped, narrow = made(lambda s, y: s.head(y.movedim(1, 3).reshape(-1, 64, 8)).amax(1), kept=4, head=linear(8, 4))
    assert_same(snapped, narrow, (8, 8), (8, 16))


def test_a_computed_size_of_which_no_share_is_left_is_refused():
    """At five images, 20 rows hold each channel two and a half times."""
    net = Net(lambda s, x: halved(s.a(x)), a=conv(3, 8)).double().eval()
    x, other = torch.rand(4, 3, 8, 8).double(), torch.rand(5, 3, 8, 8).double()
    plan = fxprune.plan(fxprune.couple(net, x), widths={"a.weight": 1}, method="even")
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-9, atol=1e-12)
    assert snapped(other).shape == (4, 8)
    with pytest.raises(SpecialisedError, match=r"the rest of a size in `.*` was 0, run where it is 4"):
        narrow(other)


def halved(y):
    return y.narrow(2, 0, y.shape[0] // 2).reshape(-1, y.shape[0] * 4, 8).sum(1)
