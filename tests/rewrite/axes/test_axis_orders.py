"""Flattened axes whose channels lie elsewhere for other inputs of the same length."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.sizes import assert_refused_at
from samples import Net, conv, linear
from torch import nn

import fxprune
from fxprune.node_facts import NodeFacts, Shape
from fxprune.passes.rewrite.axes import AxisOrders
from fxprune.passes.rewrite.axes.in_order import InOrder
from fxprune.plans import Plan


def narrowed(op, example):
    """Merge channels at a distance of half the width behind a convolution, in float64."""
    torch.manual_seed(0)
    net = Net(lambda s, *xs: op(s.a(xs[0]), *xs), a=conv(3, 8)).double().eval()
    coupling = fxprune.couple(net, tuple(map(images, example)))
    width = coupling.groups["a.weight"].width
    plan = Plan(coupling, {"a.weight": np.arange(width) % (width // 2)})
    snapped = fxprune.snap(net, plan)
    return snapped, fxprune.narrow(snapped, plan)


def images(shape):
    return torch.rand(shape[0], 3, *shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def spread(y, dim=0):
    """Let all numbers along an axis meet, so that what lies beside what counts."""
    return y.softmax(dim) * 50


def rows(y):
    return y.softmax(1).square().sum()


def total(y):
    return (y.flatten() * 3).softmax(0).square().sum()


@pytest.mark.parametrize(
    ("op", "example", "other"),
    [
        (
            lambda y, x: rows(torch.frexp(spread(y.flatten()))[0].reshape(x.shape[2], 8, x.shape[0])),
            (4, 4, 1),
            (2, 8, 1),
        ),
        (lambda y, x: rows(y.flatten().unsqueeze(-1).reshape(x.shape[2] * x.shape[3], 4, 2)), (1, 2, 1), (1, 4, 2)),
        (lambda y, x: rows(spread(y.flatten()).unsqueeze(-1).reshape(-1, 2, 2, x.shape[2])), (2, 2, 2), (1, 4, 4)),
        (lambda y, x: rows(spread(y.flatten()).expand(2, -1).reshape(8, 8, 4)), (4, 4, 1), (1, 8, 2)),
        (lambda y, x: rows(spread(y.flatten(0, 2)).view(2, 8, -1)), (2, 1, 2), (1, 2, 2)),
        (lambda y, x: rows(spread(y[None].flatten(1), 1).view(1, 8, 16)), (1, 4, 4), (2, 4, 2)),
        (
            lambda y, x: rows(spread(y.permute(2, 0, 1, 3).flatten(1, 3), 1).view(x.shape[2], 8, -1)),
            (1, 4, 2),
            (2, 2, 2),
        ),
        (lambda y, x: rows(spread(y.permute(2, 0, 1, 3).flatten(1, 3), 1).view(4, 2, 8)), (2, 4, 1), (1, 4, 2)),
        (lambda y, x: rows(spread(y.permute(2, 1, 0, 3).flatten()).view(x.shape[0], 8, -1)), (4, 4, 2), (1, 4, 2)),
        (lambda y, x: rows(spread(y.flatten(1, 2), 1).unsqueeze(-1).reshape(2, -1, 4)), (2, 1, 1), (2, 8, 1)),
        (lambda y, x: rows(spread(y.mT.flatten(1, 2), 1)[None].reshape(2, -1, 4)), (2, 1, 1), (2, 8, 1)),
        (
            lambda y, x: rows(spread(y.transpose(1, 2).flatten(0, 2)).frexp()[0].view(x.shape[0], -1, 1)),
            (2, 1, 1),
            (2, 8, 1),
        ),
    ],
)
def test_a_view_parts_flattened_images_in_the_order_of_the_example(op, example, other):
    refuses(*narrowed(op, [example]), [example], [other])


def weighted(y, x):
    """Multiply rows of images by a weight of channels, which is given first."""
    return F.linear(weight=y.mean((0, 2)), input=x.mean((1, 2)))


@pytest.mark.parametrize(
    ("op", "example", "other"),
    [
        (lambda y, x: total(weighted(y, x).flatten() + weighted(y, x).t().flatten()), (1, 4, 1), (2, 4, 1)),
        (lambda y, x: total(y.flatten() + y.transpose(0, 1).flatten()), (1, 4, 1), (2, 4, 1)),
        (lambda y, x: total(y.flatten(1, 2) + y.transpose(1, 2).flatten(1, 2)), (2, 1, 4), (2, 4, 4)),
        (lambda y, x: total(torch.where(y.flatten() > 0.1, 1, y.permute(1, 0, 2, 3).ravel())), (1, 4, 1), (2, 4, 1)),
        (
            lambda y, x: total(torch.stack([y.flatten(1, 2), y.mT.mT.transpose(1, 2).flatten(1, 2)]).softmax(0)),
            (2, 1, 4),
            (2, 4, 4),
        ),
        (lambda y, x: total(y.flatten(1, 2).mT @ y.transpose(1, 2).flatten(1, 2)), (2, 1, 4), (2, 4, 4)),
        (
            lambda y, x: total(torch.einsum("bij,bik->bjk", y.flatten(1, 2), y.transpose(1, 2).flatten(1, 2))),
            (2, 1, 4),
            (2, 4, 4),
        ),
        (lambda y, x: total(F.cosine_similarity(y.flatten(1), nn.Flatten()(y.flatten(2).mT))), (2, 1, 1), (2, 1, 4)),
    ],
)
def test_axes_that_are_flattened_in_other_orders_meet_at_the_size_of_the_example_only(op, example, other):
    """A single row or image has the same channels at each place, whatever lies in front."""
    refuses(*narrowed(op, [example]), [example], [other])


def outer(y, z):
    return y.permute(0, 2, 3, 1).flatten(1)[:, :, None] * z.mean((2, 3))[:, None]


@pytest.mark.parametrize(
    "op",
    [
        lambda y, z: outer(y, z) @ z.mean((0, 2, 3)) + y.flatten(1),
        lambda y, z: torch.matmul(other=outer(y, z).mT, input=outer(z, y)).amax(1) + y.flatten(1),
        lambda y, z: (z.mean((2, 3))[:, :, None] * y.permute(0, 2, 3, 1).flatten(1)[:, None]).norm(2, 1) + y.flatten(1),
    ],
)
def test_the_axes_of_a_product_or_norm_are_those_that_it_leaves(op):
    refuses(*narrowed(lambda y, x: total(op(y, y.sin())), [(2, 1, 1)]), [(2, 1, 1)], [(2, 4, 2)])


@pytest.mark.parametrize(
    "op",
    [
        lambda y: y.flatten(y.dim() - 3).softmax(1).view(y.shape[0], 8, -1),
        lambda y: nn.Unflatten(1, (8, -1))(nn.Flatten()(y).sin()) * y.mean((2, 3))[..., None],
        lambda y: torch.cat([y.flatten(1), y.permute(0, 2, 3, 1).flatten(1)], 1).softmax(1),
        lambda y: y.flatten(1).chunk(2, 0)[0].softmax(1) * y.flatten(1).chunk(2, 0)[1],
        lambda y: F.conv_transpose2d(y.reshape(y.shape[0] * 8, 1, *y.shape[2:]), torch.ones(1, 1, 2, 2).double())
        .view(y.shape[0], 8, -1).amax(2),
        lambda y: y.flatten(1)[(None,) * 7].amax((0, 1, 2, 3, 4, 5, 6)),
        lambda y: y.repeat_interleave(3, 1).reshape(y.shape[0] * 8, -1, *y.shape[2:]).amax(1),
    ],
)  # fmt: skip
def test_calls_of_known_orders_bind_no_size(op):
    snapped, narrow = narrowed(lambda y, x: total(op(y)), [(2, 4, 2)])
    for size in ((2, 4, 2), (4, 2, 5)):
        x = images(size)
        torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-9, atol=1e-12)  # rounding of float64


def test_the_length_of_another_input_is_no_batch():
    snapped, narrow = narrowed(
        lambda y, x, z: rows(spread(y.flatten()).view(z.shape[0], 8, -1)), [(2, 4, 2), (2, 1, 1)]
    )
    refuses(snapped, narrow, [(2, 4, 2), (2, 1, 1)], [(2, 4, 2), (4, 1, 1)])


def refuses(snapped, narrow, example, other):
    assert_refused_at(snapped, narrow, tuple(map(images, example)), tuple(map(images, other)))


@pytest.mark.parametrize(
    "op",
    [
        lambda y, x: total(y.flatten(1) * y.relu().flatten(1).sigmoid()),
        lambda y, x: total(y.flatten() + y.flatten().softmax(0)),
        lambda y, x: total(spread(y.flatten(1), 1).view(y.shape[0], 8, -1).amax(1)),
        lambda y, x: total(y.flatten(2).mT.flatten(1) + y.permute(0, 2, 3, 1).flatten(1)),
        lambda y, x: total(F.cosine_similarity(y.flatten(1), y.sin().flatten(1))),
        lambda y, x: total(y.flatten(1).roll(1, 0).flip(0) * y.flatten(1)),
        lambda y, x: total(y.flatten(1).view_as(y.permute(0, 2, 3, 1).flatten(1))),
    ],
)
def test_axes_that_are_flattened_alike_meet_at_any_size(op):
    snapped, narrow = narrowed(op, [(2, 4, 1)])
    for size in ((2, 4, 1), (3, 2, 5), (1, 1, 1)):
        x = images(size)
        torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-9, atol=1e-12)  # rounding of float64


def test_a_squeeze_before_an_extreme_keeps_its_channels():
    """The largest of a vector comes with its place: the result is no tensor whose axes count."""
    net = Net(lambda s, x: s.b(s.a(x).squeeze().max(-1)[0][..., None]), a=linear(3, 2), b=linear(1, 2)).double().eval()
    x = torch.rand(4, 1, 3, dtype=torch.float64)
    plan = fxprune.plan(fxprune.couple(net, x), widths={"a.weight": 1})
    snapped = fxprune.snap(net, plan)
    torch.testing.assert_close(fxprune.narrow(snapped, plan)(x), snapped(x), rtol=1e-9, atol=0)  # rounding of float64


def test_facts_of_a_deep_graph_are_found_within_the_stack():
    """Each fact asks for that of the node before it."""
    graph = torch.fx.Graph()
    nodes = [graph.placeholder("x")]
    while len(nodes) < 2 * sys.getrecursionlimit():
        nodes.append(graph.call_method("relu", (nodes[-1],)))
    graph.output(nodes[-1])
    facts = {node.name: NodeFacts(Shape((2,), (None,)), (), ()) for node in graph.nodes}
    coupling = SimpleNamespace(nodes=facts, graph_module=torch.fx.GraphModule(nn.Module(), graph))
    depths = InOrder(coupling, lambda node, dim: 1 + sum(depths(each, dim) for each in node.all_input_nodes))
    assert depths(nodes[-1], 0) == len(nodes)


def order_of(op, shape):
    coupling = fxprune.couple(
        Net(lambda s, x: op(s.a(x)).sum(), a=conv(3, 8)).eval(), torch.rand(shape[0], 3, *shape[1:])
    )
    orders, node = (
        AxisOrders(coupling),
        next(iter(coupling.graph_module.graph.find_nodes(op="call_method", target="sum"))),
    )
    given = node.all_input_nodes[0]
    return [(orders.side(order), len(order or ())) for order in (orders.of(given, dim) for dim in orders.mixed(given))]


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        (lambda y: y.flatten(1), [("front", 3)]),
        (lambda y: y.transpose(1, 3).flatten(1), [("behind", 3)]),
        (lambda y: y.flatten(), [("", 4)]),
        (lambda y: y.flatten(1).relu()[None].transpose(1, 2), [("front", 3)]),
        (lambda y: torch.frexp(y.flatten(1))[0], [("front", 3)]),
        (lambda y: y.reshape(-1, y.shape[2] * y.shape[3]).view(y.shape[0] * 8 * 2, -1), [("", 3)]),
        (lambda y: y.mean((2, 3), keepdim=True).flatten(1), []),
        (lambda y: y.repeat_interleave(3, 1), []),
        (lambda y: F.adaptive_avg_pool2d(y.flatten(0, 1)[:, None], 1), [("behind", 2)]),
        (lambda y: F.max_pool2d(y.flatten(0, 1)[:, None], 1), [("behind", 2)]),
        (lambda y: F.conv2d(y.flatten(0, 1)[:, None], torch.ones(1, 1, 1, 1)), [("behind", 2)]),
        (lambda y: y.flatten(1).repeat(3, 1), [("front", 3)]),
        (lambda y: y.flatten(1).repeat_interleave(3, 0), [("front", 3)]),
        (lambda y: y.flatten(1).roll(1, 0), [("front", 3)]),
        (lambda y: y.flatten(1).roll(1, 1), [("", 0)]),
        (lambda y: y.flatten(1)[:, None].amax(1), [("front", 3)]),
        (lambda y: y.flatten(1)[:, None].amax(1, keepdim=True), [("front", 3)]),
        (lambda y: y.flatten(1)[:, None].norm(2, 1), [("front", 3)]),
        (lambda y: y.view(y.shape[0], 2, -1), [("front", 3)]),
        (lambda y: y.mT.flatten(1).flip(0)[..., None] @ y.mean((1, 2, 3)).view(1, 1, -1), [("front", 3)]),
        (lambda y: torch.stack([y.flatten(1)] * 2).chunk(2, 0)[0], [("front", 3)]),
        (lambda y: y.flatten(1).split(1, 0)[0], [("front", 3)]),
        (lambda y: y.flatten(1).repeat(1, 3), [("", 4)]),
        (lambda y: y.repeat_interleave(3, dim=None), [("", 0)]),
        (lambda y: y.flatten(1)[..., None].bmm(y.mean((1, 2, 3)).view(-1, 1, 1)), [("front", 3)]),
        (lambda y: y.flatten(1).view(y.shape[0], 2, -1, 2), [("front", 2)]),
        (lambda y: y.view(y.shape[0], 2, -1, 2), [("front", 2)]),
        (lambda y: y.flatten(1).view(y.shape[0], y.shape[1:][0], -1), []),
        (lambda y: y.flatten(1).unbind(0)[0], [("front", 3)]),
        (lambda y: y.flatten(1).sort(dim=0).values, [("front", 3)]),
        (lambda y: y.flatten(1)[:, None].topk(1, 1)[0], [("front", 3)]),
        (lambda y: torch.var_mean(y.flatten(1), 0)[1], [("front", 3)]),
        (lambda y: torch.fft.rfft(y.flatten(2).mT.flatten(1), dim=0).abs(), [("behind", 2)]),
        (lambda y: y.flatten(1)[torch.tensor([1, 0, 1])], [("front", 3)]),
        (lambda y: y.flatten(1).index_select(0, torch.tensor([0])), [("front", 3)]),
        (lambda y: y.flatten(1).gather(0, y.flatten(1).argsort(0)), [("front", 3)]),
        (lambda y: y.flatten(1).gather(0, y.permute(0, 2, 3, 1).flatten(1).argsort(0)), [("", 0)]),
        (lambda y: y.flatten(1)[None].select_scatter(y.transpose(1, 3).flatten(1), 0, 0), [("", 0)]),
        (lambda y: torch.zeros_like(y.flatten(1)), [("front", 3)]),
        (lambda y: F.feature_alpha_dropout(y.flatten(1), training=False), [("front", 3)]),
        (lambda y: F.glu(y.mean((2, 3)).repeat_interleave(y.shape[2], 0), 0), []),
    ],
)
def test_an_order_tells_on_which_side_of_positions_channels_are(op, wanted):
    assert order_of(op, (2, 4, 4)) == wanted
    assert order_of(op, (2, 2, 4)) == wanted
