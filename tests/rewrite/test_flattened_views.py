"""Views of flattened tensors and of several axes, narrowed at one size of images and run at others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.sizes import shares_of_rows
from samples import Net, conv, linear

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.passes.onnx import batches_of, eager_on_cpu
from fxprune.plans import Plan


def snapped_and_narrow(op, example):
    """Channels at a distance of half the width are one, so that no row holds pairs alone."""
    torch.manual_seed(0)
    net = Net(lambda s, x: shares_of_rows(op(s.a(x)).flatten(2)), a=conv(3, 8)).double().eval()
    coupling = fxprune.couple(net, images(example))
    width = coupling.groups["a.weight"].width
    plan = Plan(coupling, {"a.weight": np.arange(width) % (width // 2)})
    snapped = fxprune.snap(net, plan)
    return snapped, fxprune.narrow(snapped, plan)


def images(size):
    return torch.rand(size[0], 3, *size[1:], dtype=torch.float64)


def assert_equal_at(snapped, narrow, size):
    x = images(size)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-9, atol=1e-12)  # rounding of float64


def rows_of(y):
    return y.permute(2, 0, 1, 3).shape[0]


@pytest.mark.parametrize(
    ("op", "others"),
    [
        (lambda y: y.flatten().sin().view(4, 32)[..., None], [(1, 8, 2), (1, 4, 4)]),
        (lambda y: (y.flatten().softmax(0) * 128).view(4, 32)[..., None], [(1, 8, 2), (1, 4, 4)]),
        (lambda y: y.flatten().sin().view(2, 8, -1), [(1, 8, 2), (1, 4, 4), (4, 4, 1)]),
        (lambda y: y.flatten().sin().view(rows_of(y), 4, 8), [(2, 8, 2), (1, 4, 4), (1, 8, 4)]),
        (lambda y: y.flatten().sin().unflatten(0, (y.shape[2], 32))[..., None], [(2, 8, 2), (1, 4, 4), (1, 8, 4)]),
    ],
)
def test_positions_on_both_sides_of_flattened_channels_are_as_in_the_example(op, others):
    """Fewer images of more positions are as long, and have channels at other places."""
    snapped, narrow = snapped_and_narrow(op, (2, 4, 2))
    assert_equal_at(snapped, narrow, (2, 4, 2))
    for other in others:
        assert snapped(images(other)).isfinite().all()
        with pytest.raises(SpecialisedError, match="capture again"):
            narrow(images(other))


@pytest.mark.parametrize(
    "op",
    [
        lambda y: y.flatten().sin().view(y.shape),
        lambda y: y.flatten(1).sin().view(y.shape[0], 8, -1),
        lambda y: y.flatten(1).view_as(y.flatten(1).relu())[..., None],
        lambda y: torch.reshape(y, shape=(y.shape[0], 8, -1)),
        lambda y: torch.cat(y.split(2, 2), 2),
        lambda y: torch.ops.aten.reshape_as.default(y.flatten(1), y.amax(1, keepdim=True).expand(-1, 8, -1, -1)),
        lambda y: y.repeat(1, 2, 1, 1).flatten(1)[:, None].expand(-1, 2, -1).squeeze(-1).sin().sum(2)[..., None, None],
        lambda y: F.pad(y.flatten(1), (2, 0)).sigmoid().amax(1)[:, None, None],
        lambda y: F.pad(y.flatten(1), (0, 2)).sigmoid().amax(1)[:, None, None],
    ],
)
def test_a_call_that_places_no_channel_by_a_size_binds_none(op):
    snapped, narrow = snapped_and_narrow(op, (2, 4, 4))
    for size in ((2, 4, 4), (3, 6, 4), (1, 4, 2)):
        assert_equal_at(snapped, narrow, size)


def test_rows_of_several_images_by_an_open_size_are_guarded():
    """A row holds all channels of two images; of four images, it would have an axis more."""
    snapped, narrow = snapped_and_narrow(lambda y: y.view(-1, 16, y.shape[0] // 2, y.shape[3]), (2, 1, 1))
    assert_equal_at(snapped, narrow, (2, 1, 1))
    assert snapped(images((4, 1, 1))).isfinite().all()
    with pytest.raises(SpecialisedError, match=r"`view` cuts channels as in the example was True.*: capture again"):
        narrow(images((4, 1, 1)))


@pytest.mark.parametrize(
    ("read", "name"), [(lambda y: torch.logsumexp(y, 1), "logsumexp"), (lambda y: torch.var(y, 1), "var")]
)
def test_a_sum_over_channels_that_all_stay_is_as_it_was(read, name):
    net = Net(lambda s, x: read(s.b(s.a(x))).mean((1, 2)), a=conv(3, 8), b=conv(8, 6)).double().eval()
    coupling = fxprune.couple(net, images((2, 4, 4)))
    plan = fxprune.plan(coupling, widths={"a.weight": 4, "b.weight": 6}, method="even")
    narrow = fxprune.narrow(fxprune.snap(net, plan), plan)
    wide = [(node.name, str(node.args), node.kwargs) for node in coupling.graph_module.graph.nodes]
    assert [(node.name, str(node.args), node.kwargs) for node in narrow.graph.nodes] == wide
    assert name in {node.name for node in narrow.graph.nodes}


def in_rows(s, x, y):
    """Three times as many rows as images: of fewer rows, one of the view would hold two channels."""
    return s.head(y.reshape(x.shape[0], -1, x.shape[1] * y.shape[0], x.shape[2]).transpose(2, 3)).sum(1)


def in_halves_of_the_batch(s, x, y):
    return s.head(y.sin().reshape(x.shape[1] // 3, 12, y.shape[0] // 2, y.shape[0] // 2).transpose(1, 3))


@pytest.mark.parametrize(
    ("op", "read", "example", "other"),
    [(in_rows, 6, (2, 6, 6), (2, 2, 8)), (in_halves_of_the_batch, 12, (2, 1, 1), (4, 2, 1))],
)
def test_sizes_computed_from_the_batch_hold_as_in_the_example(op, read, example, other):
    torch.manual_seed(0)
    net = Net(lambda s, x: op(s, x, s.a(x)), a=conv(3, 6), head=linear(read, 4)).double().eval()
    plan = fxprune.plan(fxprune.couple(net, images(example)), keep=0.5, method="even")
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert_equal_at(snapped, narrow, example)
    assert snapped(images(other)).isfinite().all()
    with pytest.raises(SpecialisedError, match="capture again"):
        narrow(images(other))


def narrowed_readers(op, length, shapes):
    """Narrow two networks by half: one reads what ``op`` joins by a layer, one by a function."""
    torch.manual_seed(0)
    made = []
    for read in (lambda s, y: s.b(y), lambda s, y: F.linear(y, s.b.weight.sigmoid())):
        net = Net(lambda s, *xs, read=read: read(s, op(s, *xs)), a=conv(3, 8), b=linear(length, 4)).double().eval()
        plan = fxprune.plan(fxprune.couple(net, tuple(map(images, shapes))), keep=0.5)
        snapped = fxprune.snap(net, plan)
        made.append((snapped, fxprune.narrow(snapped, plan)))
    return made


def scales(s, x, z):
    return [s.a(each).flatten(1) for each in (x, z)]


def heads(s, x, z):
    """Predict at each place of two scales, as detectors do."""
    return torch.cat([s.a(each).permute(0, 2, 3, 1).flatten(1) for each in (x, z)], 1)


TWO = [(2, 2, 1), (2, 4, 1)]


@pytest.mark.parametrize(
    ("op", "length", "example", "other"),
    [
        (lambda s, *xs: torch.cat(scales(s, *xs), 1), 48, TWO, TWO[::-1]),
        (lambda s, *xs: torch.cat(dim=-1, tensors=[each.sin() for each in scales(s, *xs)]), 48, TWO, TWO[::-1]),
        (lambda s, *xs: torch.hstack(scales(s, *xs)), 48, TWO, TWO[::-1]),
        (lambda s, *xs: torch.vstack([each.T for each in scales(s, *xs)]).T, 48, TWO, TWO[::-1]),
        (lambda s, *xs: torch.dstack([each[None] for each in scales(s, *xs)])[0], 48, TWO, TWO[::-1]),
        (lambda s, *xs: torch.column_stack(tensors=scales(s, *xs)), 48, TWO, TWO[::-1]),
        (lambda s, x, z: torch.cat([z[:, 0].flatten(1), s.a(x).flatten(1)], 1), 24, [(2, 2, 1), (2, 8, 1)], None),
        (lambda s, *xs: torch.cat(torch.cat(scales(s, *xs), 1)[..., None].split(1, 2), 1)[..., 0], 48, TWO, TWO[::-1]),
        (lambda s, x: s.a(x).flatten(1).repeat(1, x.shape[2]), 128, [(2, 2, 4)], [(2, 4, 1)]),
        (lambda s, x: s.a(x).flatten(1)[0].tile(x.shape[2]), 128, [(2, 2, 4)], [(2, 4, 1)]),
        (lambda s, x: s.a(x).flatten(1).repeat_interleave(x.shape[2], 1), 128, [(2, 2, 4)], [(2, 4, 1)]),
    ],
)
def test_a_weight_reads_joined_images_that_are_each_as_long_as_in_the_example(op, length, example, other):
    """As long together, one may be longer and another one shorter: channels lie elsewhere."""
    for snapped, narrow in narrowed_readers(op, length, example):
        given, others = tuple(map(images, example)), tuple(map(images, other or [(2, 1, 1), (2, 16, 1)]))
        torch.testing.assert_close(narrow(*given), snapped(*given), rtol=1e-9, atol=1e-12)  # rounding of float64
        assert snapped(*others).isfinite().all()
        with pytest.raises(SpecialisedError, match=r"size [0-2] (before|of)"):
            narrow(*others)


@pytest.mark.parametrize(
    ("op", "length", "other"),
    [
        (lambda s, x: torch.cat(scales(s, x, x.sin()), 1), 64, (3, 2, 2)),
        (lambda s, x: heads(s, x, x.sin()) * heads(s, x.cos(), x).sigmoid(), 64, (3, 2, 2)),
        (lambda s, x: torch.cat([s.a(x).mean((2, 3)), s.a(x).flatten(1)], 1), 40, (3, 2, 2)),
        (lambda s, x: torch.cat([F.adaptive_avg_pool2d(s.a(x), each).flatten(1) for each in (1, 2)], 1), 40, (3, 5, 3)),
        (lambda s, x: s.a(x).mean((2, 3)).repeat(1, x.shape[0]).view(x.shape[0], -1, 8).mean(1), 8, (3, 5, 3)),
        (lambda s, x: s.a(x).flatten(1).repeat(1, 2), 64, (3, 2, 2)),
    ],
)
def test_joined_images_bind_no_batch(op, length, other):
    for snapped, narrow in narrowed_readers(op, length, [(2, 4, 1) if other[1] < 3 else (2, 4, 4)]):
        x = images(other)
        torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-9, atol=1e-12)  # rounding of float64


@pytest.mark.parametrize(
    "op",
    [
        lambda s, x, z: s.b(heads(s, x, z).view(x.shape[0], -1, 8)).sin().sum(1),
        lambda s, x, z: s.b(heads(s, x, z).unflatten(1, (-1, 8))).sin().sum(1),
        lambda s, x, z: s.b(torch.hstack([heads(s, x, z), heads(s, z, z)]).reshape(x.shape[0], -1, 8)).amax(1),
    ],
)
def test_channels_behind_the_places_of_all_scales_are_a_part_of_their_join(op):
    torch.manual_seed(0)
    net = Net(op, a=conv(3, 8), b=linear(8, 4)).double().eval()
    plan = fxprune.plan(fxprune.couple(net, (images((2, 2, 1)), images((2, 4, 1)))), keep=0.5)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    for sizes in ([(2, 2, 1), (2, 4, 1)], [(2, 4, 1), (2, 2, 1)], [(3, 3, 2), (3, 1, 1)]):
        given = tuple(map(images, sizes))
        torch.testing.assert_close(narrow(*given), snapped(*given), rtol=1e-9, atol=1e-12)  # rounding of float64


def test_an_empty_tensor_is_cut_into_no_channels():
    snapped, narrow = snapped_and_narrow(
        lambda y: y[:, :, : y.shape[2] // 2].flatten(0, 1).view(-1, 8, 1, 1), (2, 2, 1)
    )
    for size in ((2, 2, 1), (3, 3, 1), (2, 1, 1), (0, 2, 1)):
        assert_equal_at(snapped, narrow, size)


def test_cuts_that_are_counted_in_samples_bind_no_batch():
    def op(y):
        return y.permute(1, 2, 3, 0).flatten().view(-1, y.shape[3] // 2 * y.shape[0])[None, ..., None]

    snapped, narrow = snapped_and_narrow(op, (2, 3, 4))
    assert str(batches_of(eager_on_cpu(narrow), (images((2, 3, 4)),))) == "any"
    for size in ((2, 3, 4), (3, 2, 6), (5, 3, 4)):
        assert_equal_at(snapped, narrow, size)
