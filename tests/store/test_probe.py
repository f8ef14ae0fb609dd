"""A network that takes no batch of two is saved and checked with the batch of its example."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.jobs.damage import list_again
from torch import nn

import fxprune
from fxprune.errors import CheckpointError
from fxprune.passes.store.artifact import check_probe, load, save


class Frames(nn.Module):
    """Averages over the four frames of each sample, which follow each other in the batch."""

    def __init__(self, first):
        super().__init__()
        self.first, self.second, self.last = first, nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.last(x.view(x.shape[0] // 4, 4, 8).mean(1))


@pytest.mark.parametrize(
    ("first", "example"),
    [(nn.Linear(5, 8), torch.randn(8, 5)), (nn.EmbeddingBag(20, 8), torch.zeros(8, 6, dtype=torch.int64))],
)
def test_a_network_of_frames_comes_back(first, example, tmp_path, capfd):
    net = Frames(first).eval()
    plan = fxprune.plan(fxprune.couple(net, example), keep=0.5)
    save(fxprune.narrow(fxprune.snap(net, plan), plan), tmp_path / "out")
    network = load(tmp_path / "out")
    (given,) = network.meta["example_inputs"]
    assert (given.shape, given.dtype) == (example.shape, example.dtype)
    error, bound = check_probe(network, tmp_path / "out")
    assert error <= bound == 1e-9
    text = (tmp_path / "out/network.json").read_text()
    (tmp_path / "out/network.json").write_text(text.replace('"float64"', '"bfloat16"'))
    list_again(tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"probe.safetensors is in float64, not in bfloat16"):
        check_probe(network, tmp_path / "out")
    assert capfd.readouterr().err == ""


def test_an_endless_power_is_refused_before_it_is_computed(tmp_path):
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    plan = fxprune.plan(fxprune.couple(net, torch.randn(2, 5)), keep=0.5)
    save(fxprune.narrow(fxprune.snap(net, plan), plan), tmp_path)
    graph = json.loads((tmp_path / "graph.json").read_text())
    power = {"name": "power", "op": "call", "target": "operator.pow", "args": [10**15, 10**15]}
    graph["nodes"].insert(1, power)
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    list_again(tmp_path)
    with pytest.raises(CheckpointError, match=r"graph.json is damaged: the node `power` cannot be run: operator.pow"):
        check_probe(load(tmp_path), tmp_path)
