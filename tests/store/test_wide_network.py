"""A wide network comes back from its graph, with tensors that no state dict has."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import CheckpointError
from fxprune.passes.store import SNAPPED, WIDE_GRAPH, save_weights, wide_from_graph, write_wide_graph

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Scaled(nn.Module):
    """A scale for each channel that is not in the state dict."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.register_buffer("scale", torch.rand(8, generator=torch.Generator().manual_seed(1)), persistent=False)

    def forward(self, x):
        return self.b(self.a(x) * self.scale[:, None, None])


def written(net, path):
    """Write the graph and the snapped weights of a network; return the plan, and the network."""
    net = net.double().eval()
    plan = fxprune.plan(fxprune.couple(net, X), keep=0.5)
    snapped = fxprune.snap(net, plan)
    save_weights(snapped, path / SNAPPED)
    write_wide_graph(plan, path)
    return plan, snapped


@pytest.fixture
def folder(tmp_path):
    plan, snapped = written(Scaled(), tmp_path)
    return tmp_path, snapped, fxprune.narrow(snapped, plan)


def test_a_buffer_outside_the_state_dict_is_as_wide_as_it_was(folder):
    path, snapped, narrow = folder
    assert narrow.scale.shape == (4,)
    wide = wide_from_graph(path, narrow)
    assert wide.scale.equal(snapped.scale)
    assert torch.allclose(wide(X), snapped(X), atol=1e-14)


class Backwards(nn.Module):
    """Layers that are made in another order than they are called in."""

    def __init__(self):
        super().__init__()
        self.c, self.b, self.a = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(3, 8, 1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1, generator=torch.Generator().manual_seed(1)))

    def forward(self, x):
        x = self.a(x)
        return self.c(x + self.b(x) * self.scale)


def test_groups_are_those_of_the_model_whatever_the_order_of_calls(tmp_path):
    plan, snapped = written(Backwards(), tmp_path)
    wide = wide_from_graph(tmp_path, fxprune.narrow(snapped, plan))
    assert fxprune.couple(wide, X).digest == plan.coupling.digest


@pytest.mark.parametrize("cuts", [[[0, [9] * 8]], [[7, [0] * 8]], "x", [[0, ["a"]]], [3]])
def test_clusters_that_do_not_fit_are_damage(folder, cuts):
    path, _, narrow = folder
    graph = json.loads((path / WIDE_GRAPH).read_text(encoding="utf-8"))
    graph["expanded"] = {"scale": cuts}
    (path / WIDE_GRAPH).write_text(json.dumps(graph), encoding="utf-8")
    with pytest.raises(CheckpointError, match="is damaged"):
        wide_from_graph(path, narrow)
