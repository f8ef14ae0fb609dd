"""A view cuts channels at the same places for other inputs, or is refused; and what lengths tell so."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from samples import Net, conv
from torch import nn

import fxprune
from fxprune.arguments.guards import SpecialisedError, guard_equal
from fxprune.passes.rewrite.axes import AxisOrders
from fxprune.plans import Plan


def shares(y):
    return y.softmax(1).flatten(1).square().sum(1)


def images(size):
    return torch.rand(size[0], 3, *size[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def narrowed(op, example, whole=()):
    """Merge channels at a distance of half the width behind two convolutions, in float64."""
    torch.manual_seed(0)
    net = Net(lambda s, x: op(x, s.a(x), s.b(x)), a=conv(3, 8), b=conv(3, 8)).double().eval()
    coupling = fxprune.couple(net, images(example))
    kept = {name: group.width // (1 if name in whole else 2) for name, group in coupling.groups.items()}
    plan = Plan(coupling, {name: np.arange(coupling.groups[name].width) % max(1, kept[name]) for name in kept})
    snapped = fxprune.snap(net, plan)
    return snapped, fxprune.narrow(snapped, plan)


def equal_at(snapped, narrow, size):
    x = images(size)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-9, atol=1e-12)  # rounding of float64


def product_then_view(x, y, z):
    return (y @ y.mT).sum(3).view(x.size(0) * x.shape[2], 8).softmax(0).square().sum(-1)


def moved_and_joined(x, y, z):
    y = y.flatten(2, 3).reshape(-1, x.shape[3]).permute(1, 0).reshape(x.shape[0] * x.shape[2], -1)
    return y.softmax(0).square().sum(-1)


def cut_by_a_number(x, y, z):
    y = torch.matmul(y.softmax(-1), y.mT).view(len(y), -1)
    return torch.stack([y, y.cos()], 1).reshape(32, 2).square().sum(0).sin()


def behind_a_transpose_in_place(x, y, z):
    p = y.mean(1)
    p.transpose_(1, 2)
    return shares(y.sum(3).reshape(-1, 8, p.shape[1]))


def beside_counts(x, y, z):
    u = y.sum(3).transpose(1, 2).flatten(1) + z.mean((1, 3)).repeat(1, 8)
    return shares(u.view(u.shape[0], 8, -1))


def beside_joined_positions(x, y, z):
    u = y.sum(3).transpose(1, 2).flatten(1) + torch.cat([z.mean((1, 3))] * 8, 1)
    return shares(u.view(u.shape[0], 8, -1))


def beside_expanded_positions(x, y, z):
    u = y.sum(3).transpose(1, 2).flatten(1) + z.mean((1, 3)).unsqueeze(1).expand(-1, 8, -1).reshape(y.shape[0], -1)
    return shares(u.view(u.shape[0], 8, -1))


def by_an_operator(x, y, z):
    return shares(torch.ops.aten._unsafe_view(y.transpose(1, 2).contiguous(), [y.shape[0], 8, -1]))


@pytest.mark.parametrize(
    ("op", "example", "others"),
    [
        (product_then_view, (2, 4, 2), [(1, 8, 2), (2, 8, 1), (2, 8, 2), (1, 8, 8)]),
        (lambda x, y, z: shares(y.flatten(2).reshape(1, 8, x.shape[3], -1)), (2, 1, 2), [(8, 8, 8), (3, 3, 3)]),
        (lambda x, y, z: shares(y.flatten(2).reshape(1, 8, len(x), -1)), (2, 1, 2), [(8, 2, 1), (3, 4, 2)]),
        (moved_and_joined, (3, 2, 4), [(1, 2, 1), (8, 2, 1)]),
        (lambda x, y, z: shares(y.transpose(0, 2) + z.view_as(y.transpose(0, 2))), (2, 2, 2), [(1, 2, 1), (1, 4, 2)]),
        (
            lambda x, y, z: shares(z.reshape_as(x[:, :1].transpose(0, 2).repeat(1, 8, 1, 1))),
            (2, 2, 2),
            [(1, 2, 1), (1, 4, 2)],
        ),
        (
            lambda x, y, z: shares(torch.cat(y.split(2, 0)[::-1], 2) + z.view_as(torch.cat(y.split(2, 0)[::-1], 2))),
            (2, 4, 2),
            [(4, 4, 1), (4, 2, 2), (8, 2, 1)],
        ),
        (cut_by_a_number, (1, 2, 1), [(4, 1, 1)]),
        # Lengths that are those of another tensor, or axis, at the example alone.
        (lambda x, y, z: shares((y.sum(3) + y.sum(2)).view(-1, 8, y.shape[2])), (2, 4, 1), [(2, 1, 4), (1, 1, 8)]),
        (
            lambda x, y, z: shares(y.sum(3).expand(-1, -1, x.shape[3]).reshape(-1, 8, y.shape[2])),
            (2, 4, 4),
            [(2, 1, 4), (1, 1, 8)],
        ),
        (lambda x, y, z: shares(y.sum(2).view(-1, 8, y.mean(1).squeeze(1).size(1))), (2, 1, 4), [(2, 2, 4)]),
        (
            lambda x, y, z: shares(y.sum(3).repeat_interleave(repeats=2, dim=2).reshape(-1, 8, x.shape[3])),
            (4, 2, 4),
            [(4, 2, 2)],
        ),
        (behind_a_transpose_in_place, (2, 4, 4), [(2, 4, 2)]),
        (beside_counts, (2, 1, 4), [(2, 2, 4), (1, 4, 2)]),
        (beside_joined_positions, (2, 1, 4), [(2, 2, 4), (1, 4, 2)]),
        (beside_expanded_positions, (2, 1, 4), [(2, 2, 4), (1, 4, 2)]),
        (by_an_operator, (2, 1, 4), [(1, 2, 4), (2, 2, 2)]),
        (
            lambda x, y, z: shares(nn.UpsamplingBilinear2d((4, 4))(y).sum(3).view(-1, 8, y.shape[2])),
            (2, 4, 4),
            [(2, 2, 2), (1, 2, 4)],
        ),
    ],
)
def test_a_view_that_cuts_channels_elsewhere_is_refused(op, example, others):
    snapped, narrow = narrowed(op, example)
    equal_at(snapped, narrow, example)
    for other in others:
        assert snapped(images(other)).isfinite().all()
        with pytest.raises(SpecialisedError, match="capture again"):
            narrow(images(other))


def with_a_whole_group(x, y, z):
    y, z = y.sum(0).mean((1, 2)), z.reshape(2, -1, x.shape[2] * x.shape[3]).sin().sum(2)
    return (y[None, :, None] * z.unsqueeze(1)).reshape(-1, 8, 8).square().sum(2).softmax(1).square().sum(1)


def test_an_axis_of_channels_that_all_stay_may_be_longer_elsewhere():
    snapped, narrow = narrowed(with_a_whole_group, (2, 4, 4), whole=["b.weight"])
    equal_at(snapped, narrow, (2, 4, 4))
    assert snapped(images((4, 4, 4))).isfinite().all()
    with pytest.raises(SpecialisedError, match="capture again"):
        narrow(images((4, 4, 4)))


class Stacked(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.head = conv(3, 8), nn.Linear(128, 4)

    def forward(self, x):
        y = self.a(x).flatten(1)
        return self.head(torch.stack([y, y.cos()], 2).flatten())[None]


def test_a_weight_that_reads_an_axis_of_unknown_order_binds_all_sizes():
    torch.manual_seed(0)
    net = Stacked().double().eval()
    coupling = fxprune.couple(net, images((2, 4, 1)))
    width = coupling.groups["a.weight"].width
    plan = Plan(coupling, {"a.weight": np.arange(width) % (width // 2)})
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    equal_at(snapped, narrow, (2, 4, 1))
    with pytest.raises(SpecialisedError, match="capture again"):
        narrow(images((4, 2, 1)))


@pytest.mark.parametrize(
    "op",
    [
        lambda x, y, z: shares(y.reshape(x.shape[0], 8, x.shape[2:].numel())),
        lambda x, y, z: shares((y * y.mean().flatten()).view(y.shape[0], 8, -1)),
        lambda x, y, z: shares((y * y.mean().ravel()).view(y.shape[0], 8, -1)),
    ],
)
def test_sizes_of_scalars_and_shapes_are_read(op):
    snapped, narrow = narrowed(op, (2, 2, 4))
    for size in ((2, 2, 4), (3, 4, 1)):
        equal_at(snapped, narrow, size)


def heads(x, y, z):
    b, n = x.shape[0], x.shape[2] * x.shape[3]
    q, k, v = y.flatten(2).mT.reshape(b, n, 3, 2, y.shape[1] // 6).permute(2, 0, 3, 1, 4).unbind(0)
    return (q @ k.mT @ v).transpose(1, 2).reshape(b, n, y.shape[1] // 3).mean(1).square().sum(1)


def windows(x, y, z):
    b, c, h, w = y.shape
    y = y.permute(0, 2, 3, 1).view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
    return y.view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c).mean((1, 2)).square().sum(1)


def unfolded(x, y, z):
    b, c, h, w = y.shape
    y = y.reshape(b * c * (h // 2), 2, w // 2, 2).transpose(1, 2).reshape(b, c, -1, 4).transpose(1, 3)
    y = y.transpose(1, 3).reshape(b * c * (h // 2), w // 2, 2, 2).transpose(1, 2)
    return shares(y.reshape(b, c, h, w))


@pytest.mark.parametrize("op", [heads, windows, unfolded, lambda x, y, z: shares(y.view_as(z.relu()))])
def test_usual_views_need_no_guard_of_cuts(op):
    snapped, narrow = narrowed(op, (2, 4, 6)) if op is not heads else narrowed_to_heads(op)
    guards = [str(node.args[2]) for node in narrow.graph.find_nodes(op="call_function", target=guard_equal)]
    assert not [guard for guard in guards if "cuts channels" in guard or "flattened before" in guard]
    for size in ((2, 4, 6), (1, 2, 2), (3, 8, 4)):
        equal_at(snapped, narrow, size)


def narrowed_to_heads(op):
    torch.manual_seed(0)
    net = Net(lambda s, x: op(x, s.a(x), None), a=conv(3, 24)).double().eval()
    coupling = fxprune.couple(net, images((2, 4, 6)))
    plan = fxprune.plan(coupling, keep=0.5)
    snapped = fxprune.snap(net, plan)
    return snapped, fxprune.narrow(snapped, plan)


@pytest.mark.parametrize(
    ("op", "dim", "number", "powers"),
    [
        (lambda x, y: y.flatten(2), 2, 1, {2: 1, 3: 1}),
        (lambda x, y: y.view(x.shape[0], 8, -1), 2, 1, {2: 1, 3: 1}),
        (lambda x, y: y.view(x.shape[0], -1, y.shape[2] * y.shape[3]), 0, 1, {0: 1}),
        (lambda x, y: y.unflatten(2, (-1, 2)), 2, Fraction(1, 2), {2: 1}),
        (lambda x, y: y.unflatten(2, (-1, 2)), 4, 1, {3: 1}),
        (lambda x, y: y.permute(2, 0, 3, 1).reshape(-1, 8), 0, 1, {0: 1, 2: 1, 3: 1}),
        (lambda x, y: y.sum(1, keepdim=True), 1, 1, {}),
        (lambda x, y: y.mean(1)[:, None], 2, 1, {2: 1}),
        (lambda x, y: y.unsqueeze(0), 0, 1, {}),
        (lambda x, y: y.flatten(2) @ y.flatten(2).mT, 0, 1, {0: 1}),
        (lambda x, y: y.mT @ y, 2, 1, {3: 1}),
        (lambda x, y: torch.cat([y, y], 2), 2, 2, {2: 1}),
        (lambda x, y: torch.cat([y, y], 2), 3, 1, {3: 1}),
        (lambda x, y: y.mean((2, 3), True).expand(-1, -1, y.shape[3], -1), 2, 1, {3: 1}),
        (lambda x, y: y.mean((2, 3), True).squeeze(3).squeeze(2), 0, 1, {0: 1}),
        (lambda x, y: y.mean(2, True).squeeze(2), 2, 1, {3: 1}),
        (lambda x, y: y.repeat(1, 1, 3, 1), 2, 3, {2: 1}),
        (lambda x, y: y.repeat_interleave(3, 2), 2, 3, {2: 1}),
        (lambda x, y: y.repeat_interleave(3, 2), 3, 1, {3: 1}),
        (lambda x, y: y[None].unbind(0)[0].relu(), 2, 1, {2: 1}),
        (lambda x, y: y.chunk(2, 1)[0], 3, 1, {3: 1}),
        (lambda x, y: y.view((*y.shape[:2], -1)), 2, 1, {2: 1, 3: 1}),
        (lambda x, y: y.view(y.numel() // 8, 8), 0, 1, {0: 1, 2: 1, 3: 1}),
    ],
)
def test_lengths_are_products_of_those_of_the_input(op, dim, number, powers):
    orders, node, source = lengths_of(op)
    wanted = {orders.lengths.of(source, each).powers: power for each, power in powers.items()}
    found = orders.lengths.of(node, dim)
    assert found.number == number
    assert found.powers == {(name, power) for each, power in wanted.items() for name, _ in each}


@pytest.mark.parametrize(
    ("op", "dim"),
    [(lambda x, y: y[:, :, :4], 2), (lambda x, y: y.mean(1).squeeze(), 1), (lambda x, y: F.max_pool2d(y, 1), 2)],
)
def test_a_length_that_agrees_at_the_example_alone_is_unknown(op, dim):
    orders, node, source = lengths_of(op)
    found = orders.lengths.of(node, dim)
    assert found.powers == {((node, dim), 1)} or found.powers == {((node.args[0], dim), 1)}
    assert found != orders.lengths.of(source, dim)


def lengths_of(op):
    net = Net(lambda s, x: op(x, s.a(x)).sin().sum(), a=conv(3, 8)).eval()
    coupling = fxprune.couple(net, torch.rand(2, 3, 4, 6))
    (last,) = coupling.graph_module.graph.find_nodes(op="call_method", target="sin")
    (source,) = coupling.graph_module.graph.find_nodes(op="call_module", target="a")
    return AxisOrders(coupling), last.args[0], source


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.weight = conv(3, 8), nn.Parameter(torch.rand(8))

    def forward(self, x):
        y, weight = self.a(x).flatten(1), self.weight
        for _ in range(25):
            weight = weight + weight.sin() * weight.cos()  # each is read several times
        for _ in range(400):
            y = (y + 1).sin()
        return shares(y.view(len(x), 8, -1) * weight[:, None])


def test_a_deep_network_exceeds_no_stack():
    net = Deep().double().eval()
    plan = fxprune.plan(fxprune.couple(net, images((2, 2, 2))), keep=0.5)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    for size in ((2, 2, 2), (3, 1, 4)):
        equal_at(snapped, narrow, size)
