"""Widths by what clustering loses: duplicates go first, budgets are met, balanced groups keep to their divisors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.couplings.cases import normed, plain
from helpers.couplings.tower import tower

import fxprune
from benchmarks.results.rivals.greedy import loss_curve, slopes_of, widths_by_loss
from fxprune.costs import cost, cost_terms
from fxprune.errors import OptionError
from fxprune.models_zoo.registry import create_model


def seeded_tower(*widths, **options):
    torch.manual_seed(0)
    model, coupling = tower(*widths, **options)
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.normal_()
    return model, coupling


def cost_at(coupling, widths):
    return cost(fxprune.plan(coupling, widths=widths, method="even"))


def widths_at(coupling, budget, share):
    return [*widths_by_loss(coupling, budget, share)[0].values()]


@pytest.mark.parametrize("budget", ["macs", "params"])
@pytest.mark.parametrize("name", ["resnet20", "densenet40", "mobilenetv2_050"])
def test_terms_are_the_cost_and_slopes_its_differences(budget, name):
    with torch.device("meta"):
        model = create_model(name, num_classes=10)
    coupling = fxprune.couple(model, torch.empty(1, 3, 32, 32, device="meta"))
    terms, groups = cost_terms(coupling, budget).by_group(coupling), list(coupling.groups.values())
    widths = {group.name: int(np.random.default_rng(i).integers(1, group.width + 1)) for i, group in enumerate(groups)}
    shares = np.array([*(widths[group.name] / group.width for group in groups), 1.0])
    assert terms.value(np.ones(len(groups) + 1)) == getattr(cost(coupling), budget)
    assert terms.value(shares) == pytest.approx(getattr(cost_at(coupling, widths), budget), abs=0.6)  # it rounds
    for place in (0, len(groups) // 2, len(groups) - 1):
        step = np.zeros(len(groups) + 1)
        step[place] = 1e-3
        difference = (terms.value(shares + step) - terms.value(shares - step)) / 2e-3
        assert slopes_of(terms, shares)[place] == pytest.approx(difference, rel=1e-6)  # of a square: it rounds


def test_the_curve_is_convex_and_zero_down_to_the_distinct_rows():
    model, coupling = seeded_tower(30, 12, 2)
    with torch.no_grad():
        model.layers[0].weight[6:] = model.layers[0].weight[:6]
    curve = loss_curve(coupling, coupling.groups["layers.0.weight"])
    assert curve[5:] == pytest.approx(np.zeros(7), abs=1e-12)  # rounding of squared distances
    assert (np.diff(curve[:6]) < -0.01).all()
    assert (np.diff(curve, 2) > -1e-9).all()  # rounding


def test_unrelated_rows_lose_what_goes_over_what_stays():
    _model, coupling = seeded_tower(1000, 32, 2)
    curve = loss_curve(coupling, coupling.groups["layers.0.weight"])
    # The mean of n random rows keeps 1 / n of their squares; 1000 numbers vary by some per cent, and Ward finds the
    # nearest.
    assert curve[15] == pytest.approx(1.0, rel=0.2)
    assert curve[0] == pytest.approx(31.0, rel=0.2)


def test_a_group_of_duplicates_gets_narrow_first():
    model, coupling = seeded_tower(16, 24, 24, 24, 16)
    with torch.no_grad():
        model.layers[1].weight[12:] = model.layers[1].weight[:12]
    share = cost_at(coupling, {"layers.1.weight": 12}).macs / cost(coupling).macs
    assert widths_at(coupling, "macs", share) == [24, 12, 24]


def test_small_groups_of_large_cost_pay_before_large_groups_of_small_cost():
    _model, coupling = seeded_tower(400, 20, 20, 20, 4)
    first, *_, last = widths_at(coupling, "macs", 0.6)
    assert first < 14 < last


@pytest.mark.parametrize("budget", ["macs", "params"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.25, 0.1])
def test_the_budget_is_met(budget, share):
    _model, coupling = seeded_tower(16, 48, 96, 48, 8)
    widths, how = widths_by_loss(coupling, budget, share)
    reached = getattr(cost_at(coupling, widths), budget) / getattr(cost(coupling), budget)
    assert reached == pytest.approx(share, rel=0.01)  # the promise
    assert how == f"{budget} {share:g}, reached {reached:.4f}"


def test_balanced_groups_keep_a_common_divisor():
    _model, coupling = seeded_tower(16, 48, 96, 48, 8, domain=0)
    widths = widths_at(coupling, "macs", 0.3)
    assert widths[0] * 2 == widths[1] == widths[2] * 2
    assert 48 % widths[0] == 0
    case = normed()
    assert widths_at(case.coupling, "params", 0.5) in ([6, 4], [3, 2])


def test_the_least_of_what_can_be_had():
    _model, coupling = seeded_tower(16, 48, 96, 48, 8, domain=0)
    widths, how = widths_by_loss(coupling, "params", 0.1)
    assert [*widths.values()] == [12, 24, 12]
    assert "nearest reachable" in how


def test_a_share_out_of_its_range_is_refused():
    with pytest.raises(OptionError, match=r"`macs` is a share above 0 and up to 1, not 1\.5"):
        widths_by_loss(plain().coupling, "macs", 1.5)
