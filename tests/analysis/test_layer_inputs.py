"""A layer that is called again reads the same channels, and groups of one average keep clusters of one size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from samples import Net, linear
from torch import nn

import fxprune


def coupled(forward, b=8):
    layers = {"a": linear(8, 8), "b": linear(8, b), "c": linear(8, 4), "d": linear(b, 4), "e": linear(8 + b, 4)}
    net = Net(forward, norm=nn.LayerNorm(8, elementwise_affine=False), **layers).eval()
    return fxprune.couple(net, torch.randn(2, 5, 8))


@pytest.mark.parametrize("width", [lambda x: x, lambda x: x[:, 0]], ids=["one rank", "two ranks"])
def test_a_layer_without_weights_ties_what_it_reads(width):
    groups = coupled(lambda s, x: s.c(s.norm(s.a(x)).sum(1)) + s.d(s.norm(s.b(width(x)))).sum()).groups
    assert "a.weight" in groups and "b.weight" not in groups


def test_a_layer_that_also_reads_positions_without_channels_keeps_its_width():
    coupling = coupled(lambda s, x: s.c(s.norm(s.a(x))) + s.norm(x).sum())
    assert "a.weight" not in coupling.groups
    assert "`norm` also reads positions without channels" in {each.why for each in coupling.frozen}


@pytest.mark.parametrize(("width", "domains"), [(12, 1), (9, 0)])
def test_groups_of_one_average_are_one_domain(width, domains):
    coupling = coupled(lambda s, x: s.e(F.layer_norm(torch.cat([s.a(x), s.b(x)], -1), (8 + width,))), width)
    assert len({group.domain for group in coupling.groups.values()}) == domains
    assert len(coupling.groups) == 2 * domains
    if not domains:
        assert any("groups whose widths have no common divisor" in each.why for each in coupling.frozen)
