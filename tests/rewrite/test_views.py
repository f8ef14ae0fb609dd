"""Views whose sizes agree with channels by chance, or take what others leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.sizes import assert_same, images, made, shares_of_rows
from samples import Net, conv, linear

import fxprune
from fxprune.arguments.guards import SpecialisedError, guard_equal
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
    with pytest.raises(
        SpecialisedError, match=r"(size (. of|in)|axes .* before) `(view|reshape).*` .*was .*: capture again"
    ):
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
    with pytest.raises(SpecialisedError, match=r"`(view|reshape).*` cuts channels as in the example was True"):
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


def row_by_row(y):
    """Rows as samples, and pairs of channels that are one."""
    y = y.transpose(1, 2).reshape(-1, y.shape[1], y.shape[3])
    return y + y.flip(1)


@pytest.mark.parametrize(
    ("op", "others"),
    [
        (lambda y: y.view(y.shape[0], y.shape[2], 8, y.shape[3]), ()),
        (lambda y: y.view(y.shape[0], -1, y.shape[1], y.shape[3]), ()),
        (lambda y: y.view(y.shape[0] * y.shape[2], y.shape[1], -1), ()),
        (lambda y: y.flatten(1).view(y.shape[0], y.shape[2], y.shape[1], -1), ()),
        (lambda y: y.view(y.shape[0], -1, *y.shape[1:]), (1, 2)),
        (lambda y: y.permute(0, 2, 3, 1).reshape(-1, 8).view(y.shape[0], -1, y.shape[3], 8), (1, 2)),
        (lambda y: row_by_row(y).view(y.shape[0], y.shape[2], *y.shape[1::2]), (1, 2)),
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
        with pytest.raises(SpecialisedError, match="cuts channels as in the example was True"):
            narrow(images(2, 4))


def in_windows(s, y):
    y = y.permute(0, 2, 3, 1)
    b, h, w, c = y.shape
    y = y.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, 4, c)
    return s.head(y.view(-1, 16, c)).mean(1)


def in_heads_of_windows(s, y):
    y = s.inside(y.flatten(2).transpose(1, 2))
    return y.reshape(y.shape[0], y.shape[1], 3, 2, -1).softmax(3).square().sum((2, 3))


def in_small_heads_of_windows(s, y):
    y = s.inside(y.flatten(2).transpose(1, 2))
    return y.reshape(y.shape[0], y.shape[1], 3, 8, -1).softmax(3).square().sum((2, 3))


def in_heads_of_images(s, y):
    return y.view(y.shape[0], 2, 4, y.shape[2], y.shape[3]).softmax(2).square().sum((1, 2)).amax((1, 2))


def by_a_table(s, y):
    return s.head(y.mean((2, 3)) * s.table[torch.arange(16)].view(4, 4, -1).permute(2, 0, 1).amax((1, 2)))


@pytest.mark.parametrize(
    "op", [in_windows, in_heads_of_windows, in_small_heads_of_windows, in_heads_of_images, by_a_table]
)
def test_views_that_every_input_passes_have_no_guards(op):
    """The number of elements tells the length beside fixed channels, and what -1 takes of them."""
    table = torch.nn.Parameter(torch.rand(16, 8))
    layers = {"a": conv(3, 8), "head": linear(8, 4), "inside": linear(8, 48), "table": table}
    net = Net(lambda s, x: op(s, s.a(x)), **layers).double().eval()
    plan = fxprune.plan(fxprune.couple(net, images(8, 8)), keep=0.5, method="even")
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert_same(snapped, narrow, (8, 8), (4, 16), (16, 8))
    assert not narrow.graph.find_nodes(op="call_function", target=guard_equal), narrow.code


def test_an_axis_that_holds_some_channels_more_often_is_as_long_as_in_the_example():
    def part(s, x):
        y = s.a(x)
        return s.head(y.reshape(y.shape[2] // 2, 2, 8, 8).narrow(0, 0, 2).softmax(1))

    net = Net(part, a=conv(3, 8), head=linear(8, 4)).double().eval()
    coupling = fxprune.couple(net, torch.rand(1, 3, 8, 8).double())
    plan = fxprune.plan(coupling, keep=0.5, method="even")
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    x = torch.rand(1, 3, 8, 8).double()
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "op",
    [
        lambda y: y[:, :4].square().sum(1),
        lambda y: y[:, [0, 2, 3]].square().sum(1),
        lambda y: shares_of_rows(y.unflatten(1, (-1, 4))),
    ],
)
def test_channels_flattened_with_a_single_position_are_guarded(op):
    """Of larger images, the first positions hold the first channel only."""
    net = Net(lambda s, x: op(s.a(x).flatten(1)), a=conv(3, 8)).double().eval()
    plan = fxprune.plan(fxprune.couple(net, images(1, 1)), keep=0.5, method="even")
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert_same(snapped, narrow, (1, 1))
    assert snapped(images(2, 2)).isfinite().all()
    with pytest.raises(
        SpecialisedError, match=r"(size 1 before `.*` (was|is)|cuts channels as in the example was) .*: capture again"
    ):
        narrow(images(2, 2))


def test_rows_of_channels_side_by_side_are_parted_at_any_length():
    def op(s, x):
        y = s.a(x)
        return shares_of_rows(y.reshape(len(y), 4, -1).view(len(y), 4, -1, 4).flatten(2))

    net = Net(op, a=conv(3, 8)).double().eval()
    plan = fxprune.plan(fxprune.couple(net, images(3, 2)), keep=0.5, method="even")
    snapped = fxprune.snap(net, plan)
    assert_same(snapped, fxprune.narrow(snapped, plan), (3, 2), (4, 4))


def test_a_view_may_part_a_group_that_stays_as_it_is():
    def op(s, x):
        y = s.a(x).mean((2, 3))
        return (y[:, :, None] * s.b(y)[:, None]).view(len(y), 8, 2, 3).softmax(1).amax((1, 2, 3))

    net = Net(op, a=conv(3, 8), b=linear(8, 6)).double().eval()
    plan = Plan(fxprune.couple(net, images(4, 4)), {"a.weight": np.arange(8) // 2})
    snapped = fxprune.snap(net, plan)
    assert_same(snapped, fxprune.narrow(snapped, plan), (4, 4), (6, 2))


@pytest.mark.parametrize(
    "cut", [lambda y: y.split(256, 1)[1], lambda y: F.pad(y, (0, -64)), lambda y: F.pad(y, (-64, 0))]
)
def test_pieces_of_flattened_images_are_guarded(cut):
    snapped, narrow = made(lambda s, y: cut(y.flatten(1)).sigmoid().amax(1), kept=2)
    assert_same(snapped, narrow, (8, 8))
    assert snapped(images(8, 12)).isfinite().all()
    with pytest.raises(SpecialisedError, match=r"size 1 before `(split|pad)` was .*: capture again"):
        narrow(images(8, 12))
