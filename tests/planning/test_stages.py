"""Stages: widths of the first network, plans that compose, and a wide network that computes what the last one does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.couplings.cases import randomise
from helpers.couplings.tower import tower
from helpers.rewrites.merges import narrow_unequal
from torch import nn

import fxprune
from fxprune.errors import PlanError
from fxprune.models_zoo.registry import create_model
from fxprune.passes.merge.expand import expand
from fxprune.passes.planning.stages import compose, stage_plan, stage_shares, stage_widths
from fxprune.passes.planning.widths import widths_for
from fxprune.plans import Plan


def test_shares_are_those_of_the_official_recipe():
    assert stage_shares(5 / 8) == (13 / 16, 11 / 16, 5 / 8)
    assert stage_shares(0.1) == pytest.approx((0.55, 0.25, 0.1))


def goals(coupling, shares):
    return [widths_for(coupling, share) for share in shares]


# widths before, domain, shares -> widths after each stage
STAGES = [
    ((16, 32), -1, (13 / 16, 11 / 16, 5 / 8), [[13, 26], [11, 22], [10, 20]]),
    ((10,), -1, (0.9, 0.88, 0.5), [[9], [5]]),
    ((3,), -1, (0.9, 0.8), [[2]]),
    ((12, 24), 0, (0.7, 0.34), [[4, 8]]),
    ((12, 24), 0, (0.5, 0.34, 0.25), [[6, 12], [3, 6]]),
    ((12, 24), 0, (0.5, 0.17), [[6, 12], [2, 4]]),
    ((12, 24), 0, (0.8, 0.5), [[6, 12]]),
    ((7,), -1, (0.6, 0.14), [[4], [1]]),
]


@pytest.mark.parametrize(("widths", "domain", "shares", "expected"), STAGES)
def test_widths_fall_to_the_last_goal_and_each_can_be_had_from_the_one_before(widths, domain, shares, expected):
    _model, coupling = tower(3, *widths, 2, domain=domain)
    stages = stage_widths(coupling, goals(coupling, shares))
    assert [list(stage.values()) for stage in stages] == expected


def test_groups_without_a_goal_keep_their_widths():
    _model, coupling = tower(3, 8, 6, 2)
    stages = stage_widths(coupling, [{"layers.0.weight": 6}, {"layers.0.weight": 4}])
    assert [list(stage.values()) for stage in stages] == [[6, 6], [4, 6]]


class Mixer(nn.Module):
    """Convolutions, a residual sum, a flatten, attention under a layer norm."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.a, self.b = nn.Conv2d(12, 16, 1), nn.Conv2d(16, 12, 1)
        self.ln = nn.LayerNorm(12)
        self.q, self.k, self.v = nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(12, 16)
        self.o = nn.Linear(16, 8)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.b(self.a(x).relu())
        x = self.ln(x.flatten(2).transpose(1, 2))
        q, k, v = (layer(x).unflatten(2, (2, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = torch.softmax(q @ k.transpose(-2, -1) / 2.0, -1) @ v
        return self.head(self.o(y.transpose(1, 2).flatten(2)).relu().flatten(1))


def staged(model, inputs, shares):
    """Widths, plans on each network, networks from the first to the last."""
    first = coupling = fxprune.couple(model, inputs)
    stages = stage_widths(first, goals(first, shares))
    before, current, plans, networks = {n: g.width for n, g in first.groups.items()}, model, [], [model]
    for number, widths in enumerate(stages):
        coupling = first if number == 0 else fxprune.couple(current, inputs)
        plans.append(stage_plan(coupling, widths, before, first, seed=number))
        current = narrow_unequal(current, plans[-1], absorb=False)  # as what is lifted must be
        networks.append(current)
        before = widths
    return stages, plans, networks


@pytest.mark.parametrize("name", ["mixer", "resnet20", "vit_tiny_patch16_224"])
def test_stages_compose(name):
    torch.manual_seed(0)
    if name == "mixer":
        model, size, shares = Mixer(), 4, (0.75, 0.5, 0.25)
    else:
        arguments = {"vit_tiny_patch16_224": {"img_size": 32, "depth": 2}}.get(name, {})
        model, size, shares = create_model(name, num_classes=10, **arguments), 32, (13 / 16, 0.5, 0.25)
    model = randomise(model, 0)
    inputs = torch.randn(2, 3, size, size, dtype=torch.float64)
    stages, plans, networks = staged(model, inputs, shares)
    assert len(stages) > 1
    whole = plans[0]
    for number, plan in enumerate(plans[1:], 1):
        whole = compose(whole, plan)
        assert {n: after for n, (_, after) in whole.widths.items()} == stages[number]
    # The narrow network of two steps, lifted, is trimmed to the same numbers again.
    wide = expand(model, networks[-1], whole)
    assert type(wide) is type(model)
    out = networks[-1](inputs)
    scale = out.abs().max()
    # float64 rounding through some hundred layers, with weights of size 1
    assert (wide(inputs) - out).abs().max() / scale < 1e-9
    again = narrow_unequal(wide, whole, absorb=False)
    assert (again(inputs) - out).abs().max() / scale < 1e-9
    tensors = dict(networks[-1].named_parameters())
    for key, value in again.named_parameters():
        torch.testing.assert_close(value, tensors[key], rtol=1e-14, atol=0.0)  # the mean of equal rows rounds


def test_compose_follows_each_channel():
    model, coupling = tower(3, 6, 2)
    first = Plan(coupling, {"layers.0.weight": np.array([0, 1, 0, 2, 3, 1])})
    narrow = narrow_unequal(
        model, fxprune.plan(fxprune.couple(model, torch.randn(1, 3)), widths={"layers.0.weight": 4})
    )
    other = fxprune.couple(narrow, torch.randn(1, 3))
    second = Plan(other, {"layers.0.weight": np.array([0, 0, 1, 2])})
    assert compose(first, second).clusters["layers.0.weight"].tolist() == [0, 0, 0, 1, 2, 0]
    swapped = Plan(coupling, {"layers.0.weight": np.array([3, 1, 3, 2, 0, 1])})  # other numbers, the same clusters
    assert compose(swapped, second) == compose(first, second)


def test_a_group_that_is_not_there_any_more_is_refused():
    model, coupling = tower(3, 6, 6, 2)
    before = {"layers.0.weight": 6, "layers.1.weight": 6}
    widths = {"layers.0.weight": 3, "layers.1.weight": 3}
    gone = replace(coupling, groups={name: coupling.groups[name] for name in ["layers.0.weight"]})
    with pytest.raises(PlanError, match=r"`layers.1.weight` is no group any more .* should have 6 in 2"):
        stage_plan(gone, widths, before, coupling)
    with pytest.raises(PlanError, match=r"`layers.0.weight` has 6 channels in 2 axes .* should have 5"):
        stage_plan(coupling, widths, before | {"layers.0.weight": 5}, coupling)
    assert stage_plan(gone, widths | {"layers.1.weight": 6}, before, coupling).widths["layers.0.weight"] == (6, 3)
    assert model is coupling.model()


def test_lift_refuses_another_network():
    model, coupling = tower(3, 6, 2)
    plan = fxprune.plan(coupling, method="even")
    with pytest.raises(PlanError, match=r"`layers.0.weight` is \[6, 3\] .* and \[3, 3\] by the plan"):
        expand(model, model, plan)
