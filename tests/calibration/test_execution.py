"""A graph that runs node by node computes each one in the modes of its place, on each batch by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import fxprune
from fxprune.passes.calibration import Execution


def modes() -> tuple[bool, bool, bool]:
    return torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")


class Nested(nn.Module):
    """A network with a block in each kind of mode, and a layer behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mixed, self.last = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.whole, self.recorded = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.first(x)
        with torch.autocast("cpu", enabled=x.shape[0] > 10):
            y = self.mixed(x)
            with torch.autocast("cpu", enabled=False):
                y = self.whole(y.float())
        with torch.enable_grad():
            y = self.recorded(y)
        with torch.inference_mode():
            y = y.sin()
        return self.last(y.clone())


def captured() -> Any:
    torch.manual_seed(0)
    return fxprune.couple(Nested().eval(), torch.randn(20, 16)).graph_module


def test_each_node_runs_in_the_modes_of_its_place_on_each_batch():
    graph = captured()
    sizes = 20, 7
    here, there = (Execution(graph, [(torch.randn(size, 16),) for size in sizes]) for _ in range(2))
    before, found = modes(), {}
    for node in here.nodes:
        for execution in (here, there):  # which take turns
            for batch, size in enumerate(sizes):
                value = execution.compute(node, batch)
                if isinstance(value, torch.Tensor):
                    found.setdefault(node.name, {})[size] = value.dtype, value.requires_grad, value.is_inference()
                assert modes() == before
            execution.free(node)
    plain, half = (torch.float32, False, False), (torch.bfloat16, False, False)
    assert found["mixed"] == {20: half, 7: plain}
    assert found["whole"] == found["first"] == found["last"] == {20: plain, 7: plain}
    assert found["recorded"] == dict.fromkeys(sizes, (torch.float32, True, False))
    assert found["sin"] == dict.fromkeys(sizes, (torch.float32, False, True))


def test_what_follows_is_computed_in_the_modes_of_its_place():
    graph = captured()
    nodes, x = {node.name: node for node in graph.graph.nodes}, torch.randn(20, 8)
    execution = Execution(graph, [(torch.randn(20, 16),)])
    for node in execution.nodes:
        execution.compute(node, 0)
        if node is nodes["first"]:
            assert not execution.has(nodes["mixed"], but={node})  # the mode around it is not entered yet
        if node is nodes["mixed"]:
            break
    assert execution.has(nodes["mixed"], but={nodes["first"]})
    assert execution.through(nodes["first"], [nodes["mixed"]], x, 0).dtype is torch.bfloat16
    assert execution.through(nodes["clone"], [nodes["last"]], x, 0).dtype is torch.float32
