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


@pytest.fixture
def folder(tmp_path):
    net = Scaled().double().eval()
    plan = fxprune.plan(fxprune.couple(net, X), keep=0.5)
    snapped = fxprune.snap(net, plan)
    save_weights(snapped, tmp_path / SNAPPED)
    write_wide_graph(plan, tmp_path)
    return tmp_path, snapped, fxprune.narrow(snapped, plan)


def test_a_buffer_outside_the_state_dict_is_as_wide_as_it_was(folder):
    path, snapped, narrow = folder
    assert narrow.scale.shape == (4,)
    wide = wide_from_graph(path, narrow)
    assert wide.scale.equal(snapped.scale)
    assert torch.allclose(wide(X), snapped(X), atol=1e-14)


@pytest.mark.parametrize("cuts", [[[0, [9] * 8]], [[7, [0] * 8]], "x", [[0, ["a"]]], [3]])
def test_clusters_that_do_not_fit_are_damage(folder, cuts):
    path, _, narrow = folder
    graph = json.loads((path / WIDE_GRAPH).read_text(encoding="utf-8"))
    graph["expanded"] = {"scale": cuts}
    (path / WIDE_GRAPH).write_text(json.dumps(graph), encoding="utf-8")
    with pytest.raises(CheckpointError, match="is damaged"):
        wide_from_graph(path, narrow)
