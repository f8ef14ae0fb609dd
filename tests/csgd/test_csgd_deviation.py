"""The deviation is measured as it is defined, and the solved strength leaves the one that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.couplings.cases import plain
from helpers.csgd.steps import OPTIMIZERS, PLAIN, backward, plan_of

from fxprune.passes.csgd.hook import csgd
from fxprune.passes.csgd.law import solve_strength
from fxprune.passes.merge.snap import snap
from fxprune.plans import Plan


def test_deviation_is_the_largest_row_over_the_rms_row_norm():
    case = plain()
    plan = Plan(case.coupling, {"conv1.weight": np.array([0, 1, 0, 2, 3, 4, 5, 6])})
    with torch.no_grad():
        for p in (case.model.conv1.weight, case.model.conv1.bias, case.model.bn1.weight, case.model.bn1.bias):
            p.fill_(0.0)
        case.model.conv1.weight[[0, 2], 0, 0, 0] = torch.tensor([3.0, 1.0], dtype=torch.float64)
        case.model.bn1.weight[0] = 4.0
    deviation = csgd(case.model, plan, torch.optim.SGD(case.model.parameters()), strength=1.0).deviation()
    assert deviation.largest == pytest.approx(2.0 / (16 / 8) ** 0.5, rel=1e-12)
    assert deviation.median == pytest.approx(
        1.0 / (10 / 8) ** 0.5 / 2, rel=1e-12
    )  # of 0, 0, the other one and the largest
    assert deviation.where == "bn1.weight:0"


def test_small_pulls_are_not_lost_to_float32():
    case = plain()
    plan = plan_of(case, {"conv2.weight": PLAIN["conv2.weight"]})
    snapped = snap(case.model.float(), plan)
    with torch.no_grad():  # a relative deviation of 1e-5 is 100 units in the last place, and a pull 1 / 3 of a unit
        snapped.conv2.weight.mul_(1.0 + 1e-5 * torch.randn(6, 1, 1, 1))
    optimizer = torch.optim.SGD(snapped.parameters(), lr=0.1)
    with csgd(snapped, plan, optimizer, strength=0.03) as hook:
        before = hook.deviation().largest
        for _ in range(300):
            optimizer.step()
        assert hook.deviation().largest / before == pytest.approx((1 - 0.003) ** 300, rel=0.05)  # one unit in 40


@pytest.mark.parametrize("asked", [1e-6, 0.3])
def test_final_deviation_is_the_one_asked_for(asked):
    case = plain()
    plan = plan_of(case, PLAIN)
    optimizer = OPTIMIZERS["nesterov"](case.model.parameters(), 0.0)
    lrs = [0.05 * (1 + np.cos(np.pi * step / 20)) / 2 for step in range(20)]
    backward(case.model, case, 0)
    case.model.zero_grad(set_to_none=False)  # the means stay: so does the unit
    with csgd(case.model, plan, optimizer, deviation=asked, lrs=lrs) as hook:
        assert hook.predicted() == pytest.approx(hook.deviation().largest, rel=1e-12)  # float64 rounding
        for step in (*range(10), *range(15, 20)):
            if step == 15:  # five steps were skipped
                hook.retarget(asked, lrs[15:])
            optimizer.param_groups[0]["lr"] = lrs[step]
            optimizer.step()
            # float64 rounding over what is left
            assert hook.deviation().largest == pytest.approx(hook.predicted(), rel=1e-8)
    assert hook.predicted() == pytest.approx(asked, rel=1e-9)  # the solver's end


COSINE = [0.05 * (1 + np.cos(np.pi * t / 100)) for t in range(100)]


@pytest.mark.parametrize(
    ("lrs", "shrink"), [([0.1], 0.5), ([0.1] * 1000, 1e-6), (COSINE, 1e-8), (COSINE, 1e-3), ([0.0, 0.1], 1e-9)]
)
def test_solved_strength_leaves_what_was_asked_for(lrs, shrink):
    strength = solve_strength(lrs, shrink)
    left = np.prod([1 - lr * strength for lr in lrs])
    assert left == pytest.approx(shrink, rel=1e-6)  # where lr * eps comes close to 1, 1 - lr * eps cancels
    assert 0 < strength < 1 / max(lrs)


def test_no_pull_where_nothing_is_asked():
    assert solve_strength([0.1], 1.0) == 0.0
    case = plain()
    identity = Plan(case.coupling, {"conv1.weight": np.arange(8)})
    hook = csgd(case.model, identity, torch.optim.SGD(case.model.parameters()), deviation=1e-6, lrs=[0.1])
    assert hook.strength == 0.0
    assert hook.deviation() == (0.0, 0.0, "")
