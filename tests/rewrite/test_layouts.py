"""A rewrite holds for one channel that stays, and for sizes that agree with channels by chance."""

from __future__ import annotations

import pytest
import torch
from helpers.rewrites.sizes import assert_same, images, made
from samples import Net, conv, free
from torch import nn

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.errors import RewriteError
from fxprune.passes.verify.compare import verify


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


def test_a_number_among_the_inputs_has_no_other_sizes():
    net = Net(lambda s, x, scale: contiguous(s, s.a(x)) * scale, a=conv(3, 8)).double().eval()
    inputs = images(4, 4), torch.tensor(2.0, dtype=torch.float64)
    plan = fxprune.plan(fxprune.couple(net, inputs), widths={"a.weight": 1}, method="even")
    snapped = fxprune.snap(net, plan)
    report = verify(snapped, fxprune.narrow(snapped, plan), inputs, batches=(1,))
    assert report.passed, report


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
    ("op", "height", "kept"),
    [
        (lambda y: y.flatten(1) * y.new_ones(y.shape[2] ** 3), 8, 1),
        (lambda y: y.repeat(1, 2, 1, 1) + y.new_ones((y.shape[2], 1, 1)), 16, 1),
        (lambda y: y.repeat(1, 2, 1, 1) + y.new_ones((y.shape[2], 1, 1)), 16, 4),
    ],
)
def test_a_size_that_met_repeated_channels_is_refused_where_it_has_no_share(op, height, kept):
    """Of one number and no share it would broadcast to none, whose sum is zero."""
    net = Net(lambda s, x: op(s.a(x)).flatten(1).sum(1), a=conv(3, 8)).double().eval()
    plan = fxprune.plan(fxprune.couple(net, images(height, height)), widths={"a.weight": kept}, method="even")
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert_same(snapped, narrow, (height, height))
    assert snapped(images(1, 1)).isfinite().all()
    with pytest.raises(SpecialisedError, match=r"the rest of a size in `.*` was 0, run where it is"):
        narrow(images(1, 1))


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


def written(y):
    y[:96] = 0.5
    return y


@pytest.mark.parametrize(
    "read",
    [
        lambda y: y.split(96)[0],
        lambda y: y.split_with_sizes([96, 160])[0],
        lambda y: torch.stack([y, y]).unbind()[0][:96],
        lambda y: torch.frexp(y)[0][:96],
        lambda y: torch.cat([y, y])[:96],
        lambda y: y.repeat(2)[:96],
        lambda y: y[torch.arange(96)],
        lambda y: y.index_fill(0, torch.arange(96), 0.5),
        lambda y: nn.functional.pad(y, (-96, 0)),
        written,
    ],
)
def test_places_in_an_axis_of_all_images_are_guarded(read):
    """Of more images that are smaller, other channels of other images are there."""
    net = Net(lambda s, x: read(s.a(x).relu().flatten()).sigmoid().amax(0, True), a=conv(3, 8)).double().eval()
    example, other = (torch.rand(size[0], 3, *size[1:], dtype=torch.float64) for size in ((2, 4, 4), (4, 2, 4)))
    plan = fxprune.plan(fxprune.couple(net, example), keep=0.5, method="even")
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    torch.testing.assert_close(narrow(example), snapped(example), rtol=1e-9, atol=1e-12)  # rounding of float64
    assert snapped(other).isfinite().all()
    with pytest.raises(SpecialisedError, match="`flatten` cuts channels as in the example was True"):
        narrow(other)


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (lambda s, y: y[:, : y.shape[2] // 2], "a slice of channels that depends on an input"),
        (
            lambda s, y: y.movedim(1, 3)[:, [0, 1], :, : y.shape[2] // 2].movedim(3, 1),
            "a slice of channels that depends on an input",
        ),
        (lambda s, y: torch.channel_shuffle(y, y.shape[2] // 4) * s.p, "a number of groups that depends on an input"),
        (lambda s, y: nn.functional.group_norm(y, y.shape[2] // 4), "a number of groups that depends on an input"),
        (lambda s, y: nn.functional.pixel_shuffle(y, y.shape[2] // 4), "a factor that depends on an input"),
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
