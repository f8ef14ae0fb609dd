"""Cost: what a plan promises is what the network built narrow has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.couplings.cases import Normed, Plain, normed, plain
from torch import nn

from fxprune.analysis import couple
from fxprune.costs import Cost, cost, cost_terms, latency
from fxprune.models_zoo.registry import create_model
from fxprune.passes.planning.plan import plan

CASES = [
    (plain, Plain, {"conv1.weight": 4, "conv2.weight": 3}),
    (plain, Plain, {"conv1.weight": 1, "conv2.weight": 6}),
    (plain, Plain, {"conv1.weight": 8, "conv2.weight": 6}),
    (normed, Normed, {"up.weight": 6, "mid.weight": 4}),
    (normed, Normed, {"up.weight": 3, "mid.weight": 2}),
]


@pytest.mark.parametrize(("make", "network", "widths"), CASES)
def test_cost_of_a_plan_is_the_cost_of_the_narrow_network(make, network, widths):
    case = make()
    measured = cost(network(*widths.values()), tuple(x.float() for x in case.inputs))
    assert cost(plan(case.coupling, widths=widths, method="even")) == measured
    assert cost(case.coupling) == cost(case.model, case.inputs)


def literal(coupling, share):
    """Parameters and MACs, axis by axis and node by node, where so much stays of each channel and 1 of code -1."""
    first = coupling.shared
    names = {first.get(name, name) for name, _ in coupling.graph_module.named_parameters(remove_duplicate=False)}
    lengths = {name: [float(n) for n in coupling.shapes[name]] for name in names}
    for group in coupling.groups.values():
        gone = (1.0 - share[group.offset : group.offset + group.width]).sum()
        for axis in (*group.tied, *group.readers):
            if (name := first.get(axis.parameter, axis.parameter)) in lengths:
                lengths[name][axis.dim] -= gone * axis.positions.shape[1]
    works = [work for facts in coupling.nodes.values() for work in facts.works]
    macs = sum(work.macs * float(np.prod([share[codes].mean() for codes in work.axes])) for work in works)
    return Cost(round(sum(float(np.prod(each)) for each in lengths.values())), round(macs))


@pytest.mark.parametrize(("name", "size"), [("resnet20", 32), ("mobilenetv2_050", 32), ("test_vit", 160)])
def test_the_polynomial_is_the_sum_over_axes_and_nodes(name, size):
    with torch.device("meta"):
        model = create_model(name, num_classes=10)
    coupling = couple(model, torch.empty(1, 3, size, size, device="meta"))
    made = plan(coupling, keep=0.5, method="even")
    assert cost(made) == literal(coupling, made.kept.astype(np.float64))
    share = np.append(np.random.default_rng(0).random(coupling.channels), 1.0)
    for budget in ("macs", "params"):
        wanted = getattr(literal(coupling, share), budget)
        assert cost_terms(coupling, budget).value(share) == pytest.approx(wanted, abs=0.6)  # it rounds


def test_figures_worked_out_by_hand():
    case = plain()
    assert cost(case.coupling) == Cost(params=224 + 16 + 432 + 12 + 485, macs=2 * (16 * 8 * 27 + 16 * 6 * 72 + 480))
    assert cost(normed().coupling).params == 72 + 24 + 104 + 16 + 45  # the shared weight counts once


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Linear(3, 4), (5, 3), Cost(16, 60)),
        (nn.Conv2d(4, 8, 3, groups=4, padding=1), (2, 4, 5, 5), Cost(80, 2 * 25 * 72)),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False), (1, 4, 3, 3), Cost(96, 9 * 96)),
        (nn.BatchNorm2d(4), (1, 4, 1, 1), Cost(8, 0)),
        (nn.MultiheadAttention(4, 2, batch_first=True), None, Cost(80, 3 * 64 + 2 * 36)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_measured_cost_of_single_layers(layer, shape, expected):
    inputs = torch.randn(shape) if shape else (torch.randn(1, 3, 4),) * 3
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert cost(layer, inputs) == expected
    assert layer.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_latency_is_the_median_time_of_a_call_without_gradients():
    calls = []

    def call(x, y):
        assert torch.is_inference_mode_enabled()
        calls.append(x + y)

    assert 0.0 < latency(call, (torch.ones(2), torch.ones(2)), seconds=0.01) < np.inf
    assert len(calls) > 1
    assert np.isfinite(latency(nn.Linear(2, 2), torch.ones(1, 2), seconds=0.01))
