"""The axes of what views, joins and sums make: channels and positions in order, and lengths at any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.axes import axes_of
from samples import Net, conv
from torch import nn

import fxprune
from fxprune.passes.rewrite.axes import AxisOrders, Part


def in_pairs(y):
    return y.permute(0, 2, 3, 1).reshape(y.shape[0], y.shape[2], -1, 2)


def with_product(repeated, channels):
    """Flatten what is repeated beside its product with channels, of which it gets as many."""
    return torch.cat([repeated.flatten(), (repeated * channels).flatten()])


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        (lambda s, y: y.view(y.size(0), 8, -1), "b, 8: c8, h*w"),
        (lambda s, y: y.view(y.size(dim=0), 8, y.size(2) * y.size(3)), "b, 8: c8, h*w"),
        (lambda s, y: y.view(*y.size()[:2], -1), "b, 8: c8, h*w"),
        (lambda s, y: y.view(y.shape.numel() // 8, 8), "b*h*w: p2 c8 p1>, 8"),
        (lambda s, y: y.view(y.shape[2:].numel(), -1), "h*w: b12, 8*b"),
        (lambda s, y: y.view(y.numel() // y.shape[0], -1), "8*h*w: p2 c8 p6>, b"),
        (lambda s, y: y.view(torch.numel(y) // y.shape[0], -1), "8*h*w: p2 c8 p6>, b"),
        (lambda s, y: y.view(len(y), 8, -1), "2, 8: c8, 1/2*b*h*w"),
        (lambda s, y: y.view((*y.shape[:2], -1)), "b, 8: c8, h*w"),
        (lambda s, y: y.view([y.shape[0], 8, y.shape[2] * y.shape[3]]), "b, 8: c8, h*w"),
        (lambda s, y: y.view(y.shape[0] * y.shape[2] // y.shape[2], 8, -1), "b, 8: c8, h*w"),
        (lambda s, y: y.view(y.shape[0] + 0, 8, -1), "?, 8: c8, ?^-1*b*h*w"),
        (lambda s, y: F.linear(y.mean((0, 1)), y.transpose(1, 2).flatten(1, 2).mean(0)), "h, ?: p4 c8"),
        (lambda s, y: F.interpolate(y.flatten(1, 2)[..., None], scale_factor=2), "?, ?: c8 p4, ?, ?"),
        (lambda s, y: F.avg_pool1d(y.flatten(1, 2), 3), "?, ?: c8 p4, ?"),
        (lambda s, y: y.flatten(2).mT.flatten(1) + y.permute(0, 2, 3, 1).flatten(1), "b, 8*h*w: p12 c8"),
        (lambda s, y: y.flatten(1).repeat(1, 2).repeat_interleave(3, 1), "b, 48*h*w: p192 c8 p4 p3 p576"),
        (lambda s, y: y.flatten(1).repeat(1, 2).repeat_interleave(3, 1).view(y.shape[0], 2, -1), "b, 2, 24*h*w: b288"),
        (lambda s, y: y.flatten(1).flip(1).view(y.shape[0], 8, -1), "b, 8: b8, 1/8*?"),
        (lambda s, y: y.mean((2, 3))[..., None].squeeze(-1), "b, 8: c8"),
        (lambda s, y: y.mean((2, 3), True).squeeze(), "?, 8: c8"),
        (lambda s, y: y.mean(3, True).squeeze(3).squeeze(0), "?, 8: c8, ?"),
        (lambda s, y: y.mean((2, 3)).expand(*y.shape[:2]), "b, 8: c8"),
        (lambda s, y: y.mean((2, 3)).expand(3, -1, 8), "3, b, 8: c8"),
        (lambda s, y: y.mean((2, 3))[None].expand((3, *y.shape[:2])), "3, b, 8: c8"),
        (lambda s, y: torch.cat([y.flatten(1), y[:, :, :2].flatten(1)], 1), "b, ?: c8 p4 p3 c8 p2 p3"),
        (lambda s, y: torch.cat([y.flatten(1), y.mean((2, 3))], 1), "b, ?: c8 p4 p3 c8"),
        (lambda s, y: torch.cat([in_pairs(y), in_pairs(y).sin()], 2), "b, h, 8*w: p3 c4 p3 c4, 2"),
        (lambda s, y: torch.hstack([y.flatten(1)[..., None]] * 2), "b, 16*h*w: c8 p4 p3 c8 p4 p3, 1"),
        (lambda s, y: torch.column_stack([y.flatten(1)[..., None]] * 2), "b, 16*h*w: c8 p4 p3 c8 p4 p3, 1"),
        (lambda s, y: with_product(y.mean((1, 2))[:, :1].tile(8), y.mean((2, 3))), "?: p2 c8 p1 p2 c8"),
        (lambda s, y: with_product(y.mean((1, 2)).repeat(8, 1, 1), y.mean(2).transpose(0, 1)),
         "16*b*w: c8 p2 p3 c8 p2 p3"),
        (lambda s, y: torch.cat([y.mean((2, 3))] * 3, 1), "b, 24: c24"),
        (lambda s, y: torch.concat(tensors=[y, y.sin()], dim=3), "b, 8: c8, h, 2*w"),
        (lambda s, y: torch.concatenate([y, y.sin()], axis=1), "b, 16: c16, h, w"),
        (lambda s, y: y.mean((2, 3)).repeat(3, 2), "3*b, 16: c16"),
        (lambda s, y: y.repeat_interleave(2, 2).flatten(1), "b, 16*h*w: c8 p8 p3"),
        (lambda s, y: y.repeat(1, 1, 2, 1).flatten(1), "b, 16*h*w: c8 p8 p3"),
        (lambda s, y: y.repeat(1, 1, y.shape[3], 1).flatten(1), "b, 8*h*w^2: c8 p12 p3"),
        (lambda s, y: y.tile(2).flatten(1), "?, 8*?*?: c8 p4 p6"),
        (lambda s, y: F.max_pool2d(y, 2).flatten(1), "?, 8*?*?: c8 p2 p1"),
        (lambda s, y: F.conv2d(y, torch.ones(5, 8, 1, 1)).flatten(1), "b, ?*?*?"),
        (lambda s, y: y.sum(1), "b, h, w"),
        (lambda s, y: y.sum(1, True), "b, 1, h, w"),
        (lambda s, y: y.mean((1, 2), keepdim=True), "b, 1, 1, w"),
        (lambda s, y: y.logsumexp((2, 3)), "b, 8: c8"),
        (lambda s, y: torch.matmul(y.mT, y).flatten(1), "b, 8*w^2: c8 p3 p3"),
        (lambda s, y: torch.matmul(input=y.mT, other=y), "?, ?: c8, ?, ?"),
        (lambda s, y: y.flatten(2) @ y.mean((0, 1, 2)).repeat(4), "?, ?: c8"),
        (lambda s, y: y.flatten(2).mT @ y.flatten(2), "b, h*w, h*w"),
        (lambda s, y: F.linear(y, torch.ones(5, 3)).flatten(1), "b, 8*?*h: c8 p4 p5"),
        (lambda s, y: y.unflatten(3, (-1, 3)), "b, 8: c8, h, 1/3*w, 3"),
        (lambda s, y: y.unflatten(2, (2, -1)).flatten(1), "b, 8*h*w: c8 p2 p2 p3"),
        (lambda s, y: y.unflatten(-1, (3, -1)).flatten(-4), "b, 8*h*w: c8 p4 p3 p1"),
        (lambda s, y: y[..., None].flatten(3), "b, 8: c8, h, w"),
        (lambda s, y: y.view(y.shape[0], -1)[:, :8], "b, ?: ?"),
        (lambda s, y: y.transpose(0, 1).reshape(8, -1).T, "b*h*w, 8: c8"),
        (lambda s, y: y.to(torch.float32).flatten(start_dim=1, end_dim=2), "b, 8*h: c8 p4, w"),
        (lambda s, y: torch.flatten(y, end_dim=1), "8*b: p2 c8, h, w"),
        (lambda s, y: torch.unflatten(y, 1, (2, 4)), "b, 2, 4: c4, h, w"),
        (lambda s, y: torch.reshape(y, (y.shape[0], 8, -1)), "b, 8: c8, h*w"),
        (lambda s, y: y.contiguous().view(y.shape[0], 8, 2, -1, y.shape[3]), "b, 8: c8, 2, 1/2*h, w"),
        (lambda s, y: y.permute(0, 2, 3, 1).contiguous().view(-1, 2, 4).flatten(1), "b*h*w, 8: c8"),
        (lambda s, y: y.permute(0, 2, 3, 1).reshape(y.shape[0], y.shape[2], -1, 2), "b, h, 4*w: p3 c4, 2"),
        (lambda s, y: y.permute(2, 0, 1, 3).reshape(-1, 8, y.shape[3]), "b*h, 8: c8, w"),
        (lambda s, y: y.permute(2, 3, 0, 1).flatten(1), "h, 8*b*w: p3 p2 c8"),
        (lambda s, y: y.permute(2, 3, 0, 1).flatten(0, 2), "b*h*w, 8: c8"),
        (lambda s, y: y.flatten(1, 2) * torch.ones(3), "b, 8*h: c8 p4, ?"),
        (lambda s, y: torch.matmul(y.mT, other=y), "?, ?: c8, ?, ?"),
        (lambda s, y: F.adaptive_max_pool2d(y.flatten(0, 1)[:, None], 2), "?: p2 c8, ?, ?, ?"),
        (lambda s, y: nn.AdaptiveAvgPool1d(2)(y.flatten(0, 1)[:, None, 0]), "?: p2 c8, ?, ?"),
        (lambda s, y: F.unfold(y, 1), "b, 8: c8, ?"),
        (lambda s, y: F.unfold(y.flatten(0, 1)[:, None], 2), "8*b: p2 c8, ?, ?"),
        (lambda s, y: F.fold(y.flatten(2), (4, 3), 1), "b, 8: c8, ?, ?"),
        (lambda s, y: nn.Unfold(1)(y), "b, 8: c8, ?"),
        (lambda s, y: y.unfold(2, 2, 1), "b, 8: c8, ?, w, ?"),
        (lambda s, y: torch.tensordot(y.transpose(1, 2), torch.ones(3, 3), dims=1), "?, ?, ?: c8, ?"),
        (lambda s, y: torch.fft.rfft(y, dim=3).imag.flatten(1), "b, 8*?*h: c8 p4 p2"),
        (lambda s, y: y.real.flatten(1), "b, 8*h*w: c8 p4 p3"),
        (lambda s, y: torch.view_as_real(torch.complex(y, y).flatten(1)), "?, 8*?*?: c8 p4 p3, 2"),
        (lambda s, y: F.glu(torch.stack([y, y.sin()], 2).flatten(1, 2), 1).flatten(1), "b, ?*h*w: c8 p4 p3"),
        (lambda s, y: torch.view_as_complex(torch.stack([y.flatten(1)] * 2, -1)).abs(), "b, 8*h*w: c8 p4 p3"),
        (lambda s, y: y.flatten(1).view(y.shape), "b, 8: c8, h, w"),
        (lambda s, y: y.flatten(2).view(y.shape[:2] + y.shape[2:]), "b, 8: c8, h, w"),
    ],
)  # fmt: skip
def test_the_axes_of_a_view_are_cut_from_those_before_it(op, wanted):
    assert axes_of(op) == wanted


def test_channels_lie_on_a_side_of_positions_if_all_of_them_do():
    """An axis whose order is known in part has no side."""
    coupling = fxprune.couple(Net(lambda s, x: s.a(x).sum(1), a=conv(3, 8)).eval(), torch.rand(2, 3, 4, 3))
    node = next(iter(coupling.graph_module.graph.find_nodes(op="call_module")))
    orders = AxisOrders(coupling)
    c, p, both = (Part(node, 1, kind) for kind in ("channels", "positions", "both"))
    sides = {(c, p): "front", (p, c): "behind", (p, c, p): "", (c, p, c): "", (c, both): "", (c,): "front", (p,): ""}
    assert {order: orders.side(order) for order in sides} == sides
    assert orders.side(None) == ""


class Named(nn.Module):
    """Its input has the name of a method."""

    def __init__(self):
        super().__init__()
        self.a = conv(3, 8)

    def forward(self, view):
        return self.a(view).flatten(1).sum(1)


def test_an_input_by_the_name_of_a_view_is_none():
    net = Named().eval()
    plan = fxprune.plan(fxprune.couple(net, torch.rand(2, 3, 4, 3)), keep=0.5)
    snapped, x = fxprune.snap(net, plan), torch.rand(3, 3, 2, 2)
    torch.testing.assert_close(fxprune.narrow(snapped, plan)(x), snapped(x))
