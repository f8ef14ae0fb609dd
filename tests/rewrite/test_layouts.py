"""What hangs on how few channels stay, and on sizes that agree with channels by chance."""

from __future__ import annotations

import pytest
import torch
from samples import Net, conv, free, linear
from torch import nn

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.errors import RewriteError
from fxprune.passes.verify.compare import verify


def made(op, width=8, kept=1, **layers):
    """``op`` behind a convolution: the snapped network and the narrow one, in float64."""
    torch.manual_seed(0)
    net = Net(lambda s, x: op(s, s.a(x)), a=conv(3, width), **layers).double().eval()
    coupling = fxprune.couple(net, torch.rand(2, 3, 8, 8, dtype=torch.float64))
    plan = fxprune.plan(coupling, widths={"a.weight": kept}, method="even")
    snapped = fxprune.snap(net, plan)
    return snapped, fxprune.narrow(snapped, plan)


def images(height, width):
    return torch.rand(2, 3, height, width, dtype=torch.float64)


def assert_same(snapped, narrow, *sizes):
    for size in sizes:
        report = verify(snapped, narrow, images(*size), batches=())
        assert report.passed, report


def contiguous(s, y):
    z = y.permute(0, 2, 3, 1).contiguous()
    z.mul_(2)
    return (y + z.permute(0, 3, 1, 2)).mean((1, 2, 3))


def reshaped(s, y):
    z = y.transpose(1, 2).reshape(y.shape[0], -1)
    y.add_(1)
    return z.mean(1) * y.mean((1, 2, 3))


@pytest.mark.parametrize("op", [contiguous, reshaped])
def test_a_copy_is_no_view_when_one_channel_is_left(op):
    assert_same(*made(op), (8, 8), (10, 12))


def test_what_is_a_view_of_one_pixel_is_guarded():
    snapped, narrow = made(contiguous)
    assert snapped(images(1, 1)).isfinite().all()
    with pytest.raises(SpecialisedError, match=r"size . before `contiguous` is two or more"):
        narrow(images(1, 1))


def test_what_is_a_view_of_one_image_only_where_one_channel_is_left_is_copied():
    def op(s, x):
        y = s.a(x)
        z = y.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 8)[..., :4].contiguous()
        z.add_(1)
        return y.mean((1, 2, 3)) * z.mean((1, 2))

    net = Net(op, a=conv(3, 8)).double().eval()
    plan = fxprune.plan(fxprune.couple(net, images(4, 4)), keep=0.25, method="even")
    snapped = fxprune.snap(net, plan)
    report = verify(snapped, fxprune.narrow(snapped, plan), images(4, 4), batches=(1,))
    assert report.passed, report


@pytest.mark.parametrize("batch", [1, 2])
def test_what_is_a_copy_of_several_images_only_is_refused(batch):
    def op(s, x):
        y = s.a(x)
        z = y.transpose(0, 1).contiguous()
        z.add_(1)
        return (y * z.transpose(0, 1)).sum(1)

    net = Net(op, a=conv(3, 8)).eval()
    plan = fxprune.plan(fxprune.couple(net, torch.rand(batch, 3, 4, 4)), widths={"a.weight": 1}, method="even")
    with pytest.raises(RewriteError, match="a copy at some sizes of inputs and a view at others"):
        fxprune.narrow(fxprune.snap(net, plan), plan)


@pytest.mark.parametrize(("op", "size"), [(lambda y: y, 1), (lambda y: nn.functional.avg_pool2d(y, 8), 8)])
def test_what_is_a_view_at_the_example_only_is_refused(op, size):
    """Of one pixel the wide network has a view, of more a copy; the narrow one would always have a view."""
    net = Net(lambda s, x: contiguous(s, op(s.a(x))), a=conv(3, 8)).double().eval()
    plan = fxprune.plan(fxprune.couple(net, images(size, size)), widths={"a.weight": 1}, method="even")
    with pytest.raises(RewriteError, match="a copy at some sizes of inputs and a view at others"):
        fxprune.narrow(fxprune.snap(net, plan), plan)


@pytest.mark.parametrize("dim", [1, (1, 2)])
def test_squeezed_channels_stay_when_one_is_left(dim):
    assert_same(*made(lambda s, y: y.squeeze(dim).mean((1, 2, 3))), (8, 8))


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
    with pytest.raises(SpecialisedError, match=r"size . of `(view|reshape).*` was .*: capture again"):
        narrow(images(6, 12))


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
    ],
)
def test_views_that_agree_with_channels_by_chance_are_guarded(op, example, other):
    net = Net(
        lambda s, x: shares_of_rows(op(s, s.a(x)).flatten(2)), a=conv(3, 8), head=linear(512, 4), flat=nn.Flatten(0)
    )
    narrow_at(net.double().eval(), example, other, refused=True)


def in_patches(y):
    return y.reshape(y.shape[0] * 8 * (y.shape[2] // 2), 2, y.shape[3] // 2, 2).transpose(1, 2)


@pytest.mark.parametrize(
    ("op", "example", "other"),
    [
        (lambda s, y: y.flatten().view(y.shape), (1, 4, 4), (3, 2, 5)),
        (lambda s, y: y.flatten(1).relu().view(y.shape[0], 8, -1), (1, 4, 4), (3, 2, 5)),
        (lambda s, y: s.head(y.flatten(1))[..., None], (1, 8, 8), (3, 4, 16)),
        (lambda s, y: in_patches(y).reshape(y.shape[0], 8, -1, 4), (2, 4, 4), (3, 6, 2)),
    ],
)
def test_views_that_keep_channels_run_at_other_sizes(op, example, other):
    net = Net(lambda s, x: shares_of_rows(op(s, s.a(x)).flatten(2)), a=conv(3, 8), head=linear(512, 4))
    narrow_at(net.double().eval(), example, other, refused=False)


def narrow_at(net, example, other, *, refused):
    example, other = (torch.rand(size[0], 3, *size[1:], dtype=torch.float64) for size in (example, other))
    coupling = fxprune.couple(net, example)
    assert coupling.groups["a.weight"].width
    plan = fxprune.plan(coupling, keep=0.5, method="even")
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


def created(s, y):
    return y + y.new_ones((y.shape[2], 1, 1))


def expanded(s, y):
    return y * y.mean((1, 2, 3), keepdim=True).expand(-1, y.shape[2], -1, -1)


def repeated(s, y):
    return y * y.mean((1, 2, 3), keepdim=True).repeat(1, y.shape[2], 1, 1)


@pytest.mark.parametrize("op", [created, expanded, repeated])
def test_tensors_as_wide_as_channels_by_chance_are_guarded(op):
    """Of one channel and no other it would broadcast to none, whose sum is zero."""
    snapped, narrow = made(lambda s, y: op(s, y).sum((1, 2, 3)))
    assert_same(snapped, narrow, (8, 8), (8, 10))
    assert snapped(images(1, 8)).isfinite().all()
    with pytest.raises(SpecialisedError, match=r"a size in `.*` was 8, run where it is 1"):
        narrow(images(1, 8))


@pytest.mark.parametrize(
    ("op", "height"),
    [
        (lambda y: y.flatten(1) * y.new_ones(y.shape[2] ** 3), 8),
        (lambda y: y.repeat(1, 2, 1, 1) + y.new_ones((y.shape[2], 1, 1)), 16),
    ],
)
def test_a_size_that_met_repeated_channels_is_refused_where_it_has_no_share(op, height):
    """Of one number and no share it would broadcast to none, whose sum is zero."""
    net = Net(lambda s, x: op(s.a(x)).flatten(1).sum(1), a=conv(3, 8)).double().eval()
    plan = fxprune.plan(fxprune.couple(net, images(height, height)), widths={"a.weight": 1}, method="even")
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert_same(snapped, narrow, (height, height))
    assert snapped(images(1, 1)).isfinite().all()
    with pytest.raises(SpecialisedError, match=r"the rest of a size in `.*` was 0, run where it is"):
        narrow(images(1, 1))


def shares(s, y):
    z = y.flatten(1)
    return z.sum(1) / z.shape[1] + z.reshape(len(z), z.shape[1] // 4, 4).amax((1, 2)) + z.norm(dim=1) / z.numel()


def test_the_length_of_flattened_images_is_that_of_the_present_ones():
    assert_same(*made(shares, kept=4), (8, 8), (10, 12))


def test_places_in_flattened_images_are_guarded():
    snapped, narrow = made(lambda s, y: y.flatten(1)[:, :200].sigmoid().mean(1, keepdim=True).amax(1), kept=2)
    assert_same(snapped, narrow, (8, 8))
    with pytest.raises(SpecialisedError, match=r"size 1 before `getitem.*` was .*: capture again"):
        narrow(images(10, 12))


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (lambda s, y: y[:, : y.shape[2] // 2], "a slice of channels that hangs on an input"),
        (
            lambda s, y: y.movedim(1, 3)[:, [0, 1], :, : y.shape[2] // 2].movedim(3, 1),
            "a slice of channels that hangs on an input",
        ),
        (lambda s, y: torch.channel_shuffle(y, y.shape[2] // 4) * s.p, "a number of groups that hangs on an input"),
        (lambda s, y: nn.functional.group_norm(y, y.shape[2] // 4), "a number of groups that hangs on an input"),
        (lambda s, y: nn.functional.pixel_shuffle(y, y.shape[2] // 4), "a factor that hangs on an input"),
    ],
)
def test_numbers_that_hang_on_an_input_freeze_channels(op, why):
    net = Net(lambda s, x: op(s, s.a(x)).sigmoid().mean((2, 3)).amax(1), a=conv(3, 8), p=free(8, 1, 1)).eval()
    coupling = fxprune.couple(net, torch.rand(2, 3, 8, 8))
    assert "a.weight" not in coupling.groups
    assert why in str(coupling)


@pytest.mark.parametrize(
    "cut",
    [lambda x: x[:, :256], lambda x: x.narrow(1, 0, 256), lambda x: torch.ops.aten.slice.Tensor(x, 1, 0, 256)],
    ids=["getitem", "narrow", "slice"],
)
def test_a_slice_of_channels_that_are_joined_with_space_is_guarded(cut):
    snapped, narrow = made(lambda s, y: s.b(cut(y.flatten(1)).view(-1, 4, 64)), b=nn.Conv1d(4, 5, 1))
    assert_same(snapped, narrow, (8, 8))
    snapped(images(12, 12))
    with pytest.raises(SpecialisedError, match=r"size 1 before `.*` was"):
        narrow(images(12, 12))
