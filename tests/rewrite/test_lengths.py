"""Lengths that agree with others at the example's sizes: of heads, positions, samples, and axes of one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.lengths import lengths_told, runs_at
from helpers.rewrites.sizes import assert_same, images, made, shares_of_rows
from samples import Net, conv, free, linear
from torch import nn

import fxprune
from fxprune.analysis.lengths.factors import _taken_apart, is_fixed
from fxprune.arguments.guards import SpecialisedError
from fxprune.plans import Plan


def in_two_heads(y):
    return y.view(len(y), 2, 4, -1).amax((1, 2, 3))[:, None, None]


def pooled(y):
    return F.avg_pool2d(y, 4)


def grown(y, height):
    return y.mean((2, 3), True).expand(-1, -1, height, -1)


def in_pairs(y):
    return torch.cat([y, y], 2).reshape(len(y), y.shape[2] * 2, 8, -1).transpose(1, 2)


class Shares(nn.Linear):
    def forward(self, x):
        return super().forward(x).softmax(0)


def squeezed_in_place(s, z):
    z.squeeze_()
    return s.mix(z.softmax(0))[..., None, None]


@pytest.mark.parametrize(
    ("op", "example", "other"),
    [
        (lambda s, y: y.view(y.shape[2], y.shape[1], y.shape[0], y.shape[3]), (4, 4, 4), (2, 8, 4)),
        (lambda s, y: y.reshape(4, 8, y.shape[0], y.shape[3]), (4, 4, 4), (5, 4, 4)),
        (lambda s, y: y.reshape(-1, 1, y.shape[0] * 32, y.shape[3]), (2, 8, 4), (1, 8, 4)),
        (lambda s, y: y.flatten(1, 2).mT.unflatten(2, (y.shape[1] * y.shape[2] // 4, 4)), (3, 8, 2), (3, 9, 2)),
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
        (lambda s, y: y.squeeze(-1).squeeze(-1)[..., None].flatten(1)[:, :4, None], (2, 1, 1), (2, 2, 1)),
        (lambda s, y: y.mean(3).squeeze_(2).flatten(1)[:, :4, None], (2, 1, 1), (2, 3, 1)),
        (lambda s, y: y.mean((2, 3), True).squeeze()[:4, ..., None, None], (2, 1, 1), (1, 1, 1)),
        (lambda s, y: y.mean((2, 3)).squeeze().relu()[:4, ..., None, None], (2, 1, 1), (1, 1, 1)),
        (
            lambda s, y: torch.broadcast_tensors(y.mean((2, 3), True), y)[0].flatten(1)[:, :4, None],
            (2, 1, 1),
            (2, 3, 1),
        ),
        (lambda s, y: torch.cat(y.split(1, 2), 1).flatten(1)[:, :4, None], (2, 2, 1), (2, 1, 2)),
        (lambda s, y: torch.cat(y.split(1, 2), axis=1).flatten(1)[:, :4, None], (2, 2, 1), (2, 1, 2)),
        (lambda s, y: torch.hstack(y.split(1, 2)).flatten(1)[:, :4, None], (2, 2, 1), (2, 1, 2)),
        (lambda s, y: squeezed_in_place(s, y.mean((2, 3), True)), (2, 1, 1), (1, 1, 1)),
        (lambda s, y: s.view(y.mean((2, 3)).squeeze()).softmax(0)[..., None, None], (2, 1, 1), (1, 1, 1)),
        (lambda s, y: s.shares(y.mean((2, 3)).squeeze())[..., None, None], (2, 1, 1), (1, 1, 1)),
        (lambda s, y: s.hooked(y.mean((2, 3)).squeeze())[..., None, None], (2, 1, 1), (1, 1, 1)),
        (lambda s, y: (y.mean((2, 3)).squeeze() + s.view.bias).softmax(0)[..., None, None], (2, 1, 1), (1, 1, 1)),
        (lambda s, y: s.by_batch(y.flatten(2).squeeze(0)).view(-1, 8, 4), (2, 2, 2), (1, 2, 2)),
        (lambda s, y: torch.einsum("bchw,bciw->bch", y, y).flatten(1)[:, :4, None], (2, 4, 4), (2, 8, 4)),
        (lambda s, y: torch.einsum("bc...,...->bc...", y, y[0, 0]).flatten(1)[:, :4, None], (2, 1, 1), (2, 3, 1)),
    ],
)
def test_views_that_agree_with_channels_by_chance_are_guarded(op, example, other):
    layers = {"head": linear(512, 4), "flat": nn.Flatten(0), "mix": linear(8, 8)}
    layers |= {"view": nn.LayerNorm(8), "shares": Shares(8, 8), "hooked": linear(8, 8)}
    layers["hooked"].register_forward_hook(lambda layer, given, made: made.softmax(0))
    layers |= {"by_batch": nn.BatchNorm1d(8, affine=False, track_running_stats=False)}
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


def in_rows(y):
    return y.reshape(y.shape[0] * y.shape[1], y.shape[0] * 4)


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
        (lambda s, y: y.flatten().unflatten(0, (-1, y.shape[3] * 16)).view(-1, 8, 8), (2, 8, 4), (4, 8, 2)),
        (lambda s, y: y.flatten(1).relu().view(y.shape[0], 8, -1), (1, 4, 4), (3, 2, 5)),
        (lambda s, y: s.head(y.flatten(1))[..., None], (1, 8, 8), (3, 4, 16)),
        (lambda s, y: s.rows(y.view(y.shape[0] * 2, 4 * y.shape[2], y.shape[3]).mT), (2, 4, 3), (3, 4, 5)),
        (lambda s, y: torch.frexp(y.flatten())[0].amax(0).view(1, 1, 1), (2, 4, 4), (4, 2, 4)),
        (lambda s, y: y.view(y.shape[0], y.shape[2] * 8, -1).relu().view(y.shape[0], 8, -1), (2, 4, 4), (3, 2, 4)),
        (lambda s, y: in_patches(y).reshape(y.shape[0], 8, -1, 4), (2, 4, 4), (3, 6, 2)),
        (lambda s, y: again(attended(in_heads(y))), (2, 2, 2), (3, 4, 2)),
        (lambda s, y: again(F.scaled_dot_product_attention(*[in_heads(y)] * 3)), (2, 2, 2), (3, 4, 2)),
        (lambda s, y: again(rotated(*in_three(y).unbind(1))), (2, 2, 2), (3, 4, 2)),
        (lambda s, y: again(excited(in_heads(y).permute(0, 1, 3, 2)).mT), (2, 2, 2), (3, 4, 2)),
        (lambda s, y: again(pooled_in_heads(F.adaptive_avg_pool2d(y, 4))), (2, 4, 4), (3, 4, 8)),
        (lambda s, y: again(pooled_in_heads(F.adaptive_max_pool2d(y, 4)).chunk(2, 1)[0]), (2, 4, 4), (3, 4, 8)),
        (lambda s, y: y.mean((2, 3), True).squeeze(axis=(2, 3))[..., None, None], (2, 4, 4), (1, 4, 4)),
        (lambda s, y: s.out(F.relu6(y.mean((2, 3)).squeeze())).softmax(-1).view(-1, 4, 1), (2, 4, 4), (1, 4, 4)),
        (lambda s, y: y.mean((2, 3)).squeeze().view(-1, 8, 1), (2, 4, 4), (1, 4, 4)),
        (lambda s, y: y.flatten(1, 2).unflatten(1, (8, -1)), (2, 4, 4), (3, 2, 5)),
        (lambda s, y: in_rows(y.flatten(2).mT).unsqueeze(2), (2, 1, 1), (2, 4, 4)),
        (lambda s, y: torch.vstack(y.split(2, 2)), (2, 4, 4), (2, 6, 4)),
    ],
)
def test_views_that_keep_channels_run_at_other_sizes(op, example, other):
    layers = {"head": linear(512, 4), "out": linear(8, 4), "rows": linear(16, 4)}
    net = Net(lambda s, x: shares_of_rows(op(s, s.a(x)).flatten(2)), a=conv(3, 8), **layers)
    narrow_at(net.double().eval(), example, other, refused=False)


def assert_fixed(module, told, example, other):
    """A length has the factors that are told, and is the same at other sizes if they are fixed."""
    runs = runs_at(module, example, other)
    for node in module.graph.nodes:
        found = [run.env[node].shape for run in runs if isinstance(run.env.get(node), torch.Tensor)]
        if len(set(map(len, found))) > 1:  # behind a squeeze, which is guarded, axes have other places
            return
        tensor, labels = told.get(node.name, (None, None))
        if not found or tensor is None or found[0] != tensor.shape:  # it came from an earlier operation of the node
            continue
        shape = tensor.shape
        for dim, each in enumerate(labels.of(tensor).factors):
            assert abs(math.prod(each)) == shape[dim], (node, dim, each)
            assert not is_fixed(each) or all(size[dim] == shape[dim] for size in found), (node, dim, each)


def narrow_at(net, example, other, *, refused):
    example, other = (torch.rand(size[0], 3, *size[1:], dtype=torch.float64) for size in (example, other))
    with lengths_told() as told:
        coupling = fxprune.couple(net, example)
    assert_fixed(coupling.graph_module, told, example, other)
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


@pytest.mark.parametrize(
    ("factors", "sizes", "pieces"),
    [((3, 4), [2, 6], [(-2,), (-6,)]), ((6, 2), [4, 3], [(-4,), (-3,)]), ((-8, 3), [2, 4, 3], [(-2,), (-4,), (3,)])],
)
def test_a_length_that_no_factor_gives_is_open(factors, sizes, pieces):
    assert _taken_apart(factors, sizes) == pieces


def scaled_heads(s, y):
    q, k, v = (layer(y).unflatten(-1, (4, 8)).transpose(1, 2) for layer in (s.q, s.k, s.v))
    q = q.cumsum(-1) * (s.scale * 2).view(-1, 1, 8)  # channels of a head differ, so that heads merge
    return ((q @ k.cumsum(-1).mT).softmax(-1) @ v).transpose(1, 2).flatten(2)


def test_heads_of_a_parameter_bind_no_batch():
    layers = {name: linear(8, 32) for name in "qkv"}
    net = Net(lambda s, y: s.head(scaled_heads(s, y)), scale=free(32), head=linear(32, 4), **layers).eval()
    coupling = fxprune.couple(net, torch.randn(4, 5, 8))
    plan = fxprune.plan(coupling, method="even", keep=0.5)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert str(coupling.batch) == "any" and narrow.scale.shape == (16,)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8)
        torch.testing.assert_close(narrow(x), snapped(x))


@pytest.mark.parametrize("batch", [1, 3])
def test_heads_of_an_einsum_bind_no_size(batch):
    def forward(s, x):
        z = torch.einsum("...hd,hod->...ho", s.a(x).unflatten(-1, (8, 4)), s.w).reshape(*x.shape[:2], -1)
        z = z.view(*x.shape[:2], 2, -1).transpose(1, 2)
        return s.head(((z @ z.mT).softmax(-1) @ z).transpose(1, 2).flatten(2))

    net = Net(forward, a=linear(6, 32), w=free(8, 4, 4), head=linear(32, 4)).eval()
    plan = fxprune.plan(fxprune.couple(net, torch.randn(batch, 5, 6)), method="even", keep=0.5)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert narrow.w.shape == (4, 4, 4)
    for sizes in ((1, 5), (2, 7), (5, 1)):
        x = torch.randn(*sizes, 6)
        torch.testing.assert_close(narrow(x), snapped(x))
