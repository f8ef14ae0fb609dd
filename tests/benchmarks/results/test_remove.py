"""Removal removes: what is left is the wide network with maps at zero, and the chosen channels go."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers.benchmarks.results import EXAMPLE, TINY, residual_net
from torch import nn

import fxprune
from benchmarks.results.rivals.remove import Lasso, remove, weakest
from benchmarks.results.squeeze import pacesetter
from benchmarks.results.train import optimizer_for
from fxprune.models_zoo.data import load_data


def masked(net, coupling, gone):
    """The wide network with the rows of these channels at zero: each of their maps is zero after its BatchNorm."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for name, out in gone.items():
            for axis in coupling.groups[name].tied:
                if "running" not in axis.parameter:
                    net.get_parameter(axis.parameter).movedim(axis.dim, 0)[axis.positions[out].ravel()] = 0.0
    return net


@pytest.mark.parametrize("keep", [0.5, 0.625])
def test_removal_is_the_wide_network_with_maps_at_zero(keep):
    net = residual_net().double()
    coupling = fxprune.couple(net, EXAMPLE.double())
    gone = weakest(coupling, keep)
    small, images = remove(net, coupling, gone), torch.randn(4, 1, 8, 8, dtype=torch.float64)
    expected = masked(net, coupling, gone)(images)
    # float64 sums of a thousand terms
    torch.testing.assert_close(small(images), expected, rtol=1e-12, atol=1e-12)
    assert (net(images) - expected).abs().max() > 0.1
    assert small.get_parameter("stage3.0.conv1.weight").shape[0] == round(32 * keep)


def test_the_weakest_channels_go():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([3.0, 1.0, 4.0, 2.0]).view(4, 1, 1, 1).expand(4, 1, 3, 3))
    gone = weakest(fxprune.couple(net, EXAMPLE), 0.5)
    assert gone["0.weight"].tolist() == [1, 3]


def test_lasso_brings_rows_to_zero_and_no_others():
    net, data = residual_net().train(), load_data("digits", image_size=8, batch_size=64)
    coupling = fxprune.couple(net, EXAMPLE)
    gone = weakest(coupling, 0.5)
    optimizer, rates = optimizer_for(net, TINY, 0.02), [0.02] * 12
    with Lasso(net, coupling, gone, optimizer, rates) as lasso:
        before = lasso.left()
        for _ in rates:
            optimizer.zero_grad()
            net(next(iter(data.train))[0]).square().mean().mul(0.0).backward()  # the pull alone
            optimizer.step()
    assert before > 0.5 and lasso.left() == 0.0
    assert not masked(net, coupling, gone).conv1.weight.equal(torch.zeros_like(net.conv1.weight))
    images = torch.randn(2, 1, 8, 8)
    # float32: sums of a thousand terms in another order
    torch.testing.assert_close(remove(net, coupling, gone).eval()(images), net.eval()(images), rtol=1e-4, atol=1e-5)


def test_the_pacesetter_decides_for_its_group():
    net = residual_net()
    coupling = fxprune.couple(net, EXAMPLE)
    with torch.no_grad():  # channels i and i + 4 of the first layer are alike, those of the others are not
        net.conv1.weight[4:] = net.conv1.weight[:4]
    plan = pacesetter(coupling, 0.5, seed=0)
    stem = plan.clusters["conv1.weight"]
    assert stem[:4].tolist() == stem[4:].tolist() and sorted(set(stem)) == [0, 1, 2, 3]
    joint = fxprune.plan(coupling, 0.5)
    assert plan.widths == joint.widths and not np.array_equal(joint.clusters["conv1.weight"], stem)
