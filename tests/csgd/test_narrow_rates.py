"""What a step of C-SGD is for the narrow network, once the members of each cluster are equal."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

import fxprune
from fxprune.passes.csgd import csgd

SIZES = {"0.weight": [0, 0, 0, 0, 1, 2, 2], "3.weight": [0, 1, 1, 0, 0]}


def test_a_step_is_one_of_the_narrow_network_with_a_rate_for_each_weight():
    # Entry [o, i] has the rate lr * |cluster of column i| / |cluster of row o|.
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 5, 3), nn.Flatten(), nn.Linear(20, 4)
    model, images = nn.Sequential(*layers).double(), torch.randn(6, 3, 6, 6, dtype=torch.float64)
    coupling = fxprune.couple(model, images)
    plan = fxprune.Plan(coupling, {name: np.array(SIZES[name]) for name in coupling.groups})
    wide = fxprune.snap(model, plan).train()
    plan = plan.of_copy(wide)
    small, rates = fxprune.narrow(wide, plan).train(), _rates(wide, plan)
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.05)
    with csgd(wide, plan, optimizer, strength=2.0):
        wide(images).square().mean().backward()
        optimizer.step()
    stepped = dict(fxprune.narrow(wide, plan).named_parameters())
    small(images).square().mean().backward()
    for name, parameter in small.named_parameters():
        wanted = parameter - 0.05 * rates[name] * parameter.grad
        torch.testing.assert_close(stepped[name], wanted, rtol=1e-10, atol=1e-12)  # float64 rounding
    assert rates["0.weight"].unique().tolist() == [1 / 4, 1 / 2, 1]
    assert rates["3.weight"].unique().tolist() == [1 / 3, 1 / 2, 2 / 3, 1, 4 / 3, 2]
    assert rates["5.weight"].unique().tolist() == [2, 3]


def _rates(wide, plan):
    """Narrow a network whose weights are 1 / size of the cluster of their row."""
    ones = copy.deepcopy(wide)
    weights = dict(ones.named_parameters())
    with torch.no_grad():
        for weight in weights.values():
            weight.fill_(1.0)
        for cut in plan.partitions():
            if cut.tied and cut.parameter in weights:
                sizes = torch.as_tensor(np.bincount(cut.cluster)[cut.cluster])
                rows = weights[cut.parameter].movedim(cut.dim, -1)
                rows.div_(sizes)
    return dict(fxprune.narrow(ones, plan.of_copy(ones)).named_parameters())
