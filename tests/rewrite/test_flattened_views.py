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
