"""A layer that is called again reads the same channels, and what depends on an input cuts none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from samples import Net, conv, linear
from torch import nn

import fxprune


def coupled(forward, b=8):
    layers = {"a": linear(8, 8), "b": linear(8, b), "c": linear(8, 4), "d": linear(b, 4), "e": linear(12 + b, 4)}
    layers |= {"norm": nn.LayerNorm(8, elementwise_affine=False), "batch": nn.BatchNorm1d(8, affine=False)}
    return fxprune.couple(Net(forward, **layers).eval(), torch.randn(2, 5, 8))


AGAIN = {
    "at one rank": lambda s, x: s.c(s.norm(s.a(x)).sum(1)) + s.d(s.norm(s.b(x))).sum(),
    "at two ranks": lambda s, x: s.c(s.norm(s.a(x)).sum(1)) + s.d(s.norm(s.b(x[:, 0]))).sum(),
    "on axis 1": lambda s, x: s.c(s.batch(s.a(x).mT).sum(2)) + s.d(s.batch(s.b(x[:, :3]).mT).sum(2)).sum(),
}


@pytest.mark.parametrize("name", AGAIN)
def test_a_layer_without_weights_ties_what_it_reads(name):
    groups = coupled(AGAIN[name]).groups
    assert "a.weight" in groups and "b.weight" not in groups


def without_channels_first(s, x):
    plain = s.norm(x).sum()
    return s.c(s.norm(s.a(x))) + plain


@pytest.mark.parametrize("forward", [lambda s, x: s.c(s.norm(s.a(x))) + s.norm(x).sum(), without_channels_first])
def test_a_layer_that_also_reads_positions_without_channels_keeps_its_width(forward):
    coupling = coupled(forward)
    assert "a.weight" not in coupling.groups
    assert "`norm` also reads positions without channels" in {each.why for each in coupling.frozen}


@pytest.mark.parametrize(("width", "groups"), [(12, 3), (9, 0)])
def test_groups_of_one_average_are_one_domain(width, groups):
    def forward(s, x):
        return s.e(F.layer_norm(torch.cat([s.a(x), s.b(x), s.c(x)], -1), (12 + width,)))

    coupling = coupled(forward, width)
    assert len(coupling.groups) == groups and len({group.domain for group in coupling.groups.values()}) <= 1
    common = any("groups whose widths have no common divisor" in each.why for each in coupling.frozen)
    assert common == (not groups)


PADDING, SLICE = "padding of channels that depends on an input", "a slice of channels that depends on an input"
CUTS = {
    "pad": (lambda y, n: F.pad(y, (0, 0, 0, 0, 0, n - 8)), PADDING),
    "pad in front": (lambda y, n: F.pad(y, (0, 0, 0, 0, n - 8, 0)), PADDING),
    "pad by name": (lambda y, n: F.pad(y, pad=(0, 0, 0, 0, 0, n - 8)), PADDING),
    "constant pad": (lambda y, n: torch.constant_pad_nd(y, (0, 0, 0, 0, 0, n - 8)), PADDING),
    "pad positions": (lambda y, n: F.pad(y, (0, n - 8, n - 8, 0)), ""),
    "slice": (lambda y, n: y[:, :n], SLICE),
    "slice from": (lambda y, n: y[:, n - 8 :], SLICE),
    "slice from the end": (lambda y, n: y[..., :n, :, :], SLICE),
    "slice positions": (lambda y, n: y[:, :, :n], ""),
    "slice all": (lambda y, n: y[:, : y.shape[1]], ""),
    "narrow": (lambda y, n: y.narrow(1, 0, n), SLICE),
    "narrow from": (lambda y, n: torch.narrow(y, 1, n - 8, 8), SLICE),
    "narrow from the end": (lambda y, n: y.narrow(-3, n - 8, 8), SLICE),
    "narrow by name": (lambda y, n: y.narrow(dim=1, start=0, length=n), SLICE),
    "narrow positions": (lambda y, n: y.narrow(2, 0, n), ""),
    "narrow positions by name": (lambda y, n: y.narrow(2, start=0, length=n), ""),
}


@pytest.mark.parametrize("name", CUTS)
def test_what_hangs_on_an_input_cuts_no_channels(name):
    cut, why = CUTS[name]
    net = Net(lambda s, x: cut(s.a(x), x.shape[2]).sum((1, 2, 3)), a=conv(3, 8)).eval()
    coupling = fxprune.couple(net, torch.rand(2, 3, 8, 8))
    found = {each.why for each in coupling.frozen}
    assert found >= {why} if why else not found & {PADDING, SLICE}
    assert ("a.weight" in coupling.groups) == (not why)
