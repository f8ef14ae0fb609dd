"""C-SGD with the pull inside the momentum: the deviation follows its law, and only SGD may have it."""

from __future__ import annotations

import cmath
import copy

import numpy as np
import pytest
import torch
from helpers.couplings.cases import plain, square
from helpers.csgd.steps import PLAIN, SQUARE, away, backward, plan_of, steps
from timm.optim import Lion

from fxprune.errors import OptionError
from fxprune.passes.csgd.hook import csgd
from fxprune.passes.csgd.law import Momentum, Motion, advance, coupled_curve, momentum_of, solve_coupled_strength

KINDS = {
    "plain": Momentum(),
    "decay": Momentum(weight_decay=0.5),
    "heavy ball": Momentum(0.9, weight_decay=1e-2),
    "nesterov": Momentum(0.9, nesterov=True, weight_decay=1e-2),
    "dampened": Momentum(0.5, dampening=0.3),
}


def slow_root(lr, strength, options):
    """Return the factor per step of the deviation once momentum has built up: the larger |z|."""
    q = lr * (strength + options.weight_decay)
    if options.nesterov:
        total, product = (1.0 + options.momentum) * (1.0 - q), options.momentum * (1.0 - q)
    else:
        total, product = 1.0 + options.momentum - (1.0 - options.dampening) * q, options.momentum
    root = cmath.sqrt(total * total - 4.0 * product)
    return max(abs(total + root), abs(total - root)) / 2.0


def sgd(model, options, lr):
    return torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=options.momentum,
        dampening=options.dampening,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_deviation_follows_the_curve(kind):
    case, options = plain(), KINDS[kind]
    plan, optimizer = plan_of(case, PLAIN), sgd(case.model, options, 0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    lrs = [0.05 * (1 + np.cos(np.pi * step / 12)) / 2 for step in range(9)]
    before = away(case.model, plan)
    with csgd(case.model, plan, optimizer, strength=0.8, coupled=True):
        steps(case.model, case, optimizer, 9, scheduler)
    factor = coupled_curve(lrs, 0.8, options)[-1]
    for axis, left in away(case.model, plan).items():
        # float64 rounding of steps far larger than the deviation that is left
        torch.testing.assert_close(left, factor * before[axis], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pull", [0.2, 0.9])
def test_the_slow_root_is_the_ratio_of_two_steps_in_the_end(kind, pull):
    options = KINDS[kind]
    strength = pull * options.critical / 0.05 - options.weight_decay
    curve = coupled_curve([0.05] * 250, strength, options)
    root = slow_root(0.05, strength, options)
    assert curve[-1] / curve[-2] == pytest.approx(root, rel=1e-5)  # what is left of the smaller root
    if options.momentum and pull == 0.2:
        rate = (1 - options.dampening) * pull * options.critical / (1 - options.momentum)
        assert 1 - root == pytest.approx(rate, rel=0.15)  # first order; the next one is lr k m / (1 - m)^2


@pytest.mark.parametrize("kind", ["heavy ball", "nesterov", "dampened"])
def test_no_pull_is_faster_than_the_critical_one(kind):
    options = KINDS[kind]
    at, less, more = (
        slow_root(0.05, q * options.critical / 0.05 - options.weight_decay, options) for q in (1, 0.9, 1.1)
    )
    assert at < less
    assert more == pytest.approx(at, rel=0.01)  # Nesterov's momentum falls a little with the pull


def test_the_published_settings_shrink_as_the_paper_needs():
    options = Momentum(0.9, nesterov=True, weight_decay=1e-4)
    rate = 1 - slow_root(3e-2, 3e-3, options)
    assert rate == pytest.approx(3e-2 * (3e-3 + 1e-4) / (1 - 0.9), rel=0.01)  # second order: lr k m / (1 - m)^2


def test_one_step_is_the_formula_of_the_paper():
    case = plain()
    plan, optimizer = plan_of(case, PLAIN), torch.optim.SGD(case.model.parameters(), lr=0.1, weight_decay=0.01)
    backward(case.model, case, 0)
    old = {name: p.detach().clone() for name, p in case.model.named_parameters()}
    gradient = {name: p.grad.clone() for name, p in case.model.named_parameters()}
    with csgd(case.model, plan, optimizer, strength=0.3, coupled=True):
        optimizer.step()
    cluster = torch.tensor(PLAIN["conv1.weight"])
    for name in ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"):
        for i, label in enumerate(cluster):
            mean, averaged = (values[name][cluster == label].mean(0) for values in (old, gradient))
            step = -averaged - 0.01 * old[name][i] + 0.3 * (mean - old[name][i])
            expected = old[name][i] + 0.1 * step
            torch.testing.assert_close(case.model.get_parameter(name)[i], expected, rtol=1e-12, atol=1e-14)  # float64


def test_clusters_become_equal_under_momentum():
    case = plain()
    plan, optimizer = plan_of(case, PLAIN), sgd(case.model, KINDS["nesterov"], 0.02)
    with csgd(case.model, plan, optimizer, strength=0.1, coupled=True) as hook:
        steps(case.model, case, optimizer, 600)
        assert hook.deviation().largest < 1e-4


def test_two_tied_axes_are_pulled_at_once():
    case = square()
    plan, optimizer = plan_of(case, SQUARE), torch.optim.SGD(case.model.parameters(), lr=0.05)
    old = case.model.table.detach().clone()
    with csgd(case.model, plan, optimizer, strength=2.0, coupled=True):
        steps(case.model, case, optimizer, 1)
    rows, columns = (torch.tensor(labels) for labels in SQUARE.values())
    mean_rows, mean_columns = (
        (labels[:, None] == labels) / (labels[:, None] == labels).sum(1, keepdim=True).double()
        for labels in (rows, columns)
    )
    gone = old - mean_rows @ old
    shared = gone @ mean_columns  # no deviation along columns: one pull; the rest has two
    expected = 0.9 * shared + 0.8 * (gone - shared)
    torch.testing.assert_close(away(case.model, plan)["table", 0], expected, rtol=1e-9, atol=1e-13)  # float64 rounding


@pytest.mark.parametrize("how", ["scaler", "closure", "no gradient"])
def test_law_where_gradients_are_made_or_scaled_elsewhere(how):
    case = plain()
    plan, optimizer = plan_of(case, PLAIN), torch.optim.SGD(case.model.parameters(), lr=0.05)
    before, weight = away(case.model, plan), case.model.bn1.weight.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = case.model(*case.inputs).square().mean()
        loss.backward()
        return loss

    with csgd(case.model, plan, optimizer, strength=2.0, coupled=True):
        if how == "closure":
            optimizer.step(closure)
        elif how == "scaler":
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            scaler.scale(case.model(*case.inputs).square().mean()).backward()
            scaler.step(optimizer)
        else:
            closure()
            case.model.bn1.weight.grad = None
            optimizer.step()
    after = away(case.model, plan)
    for axis, old in before.items():
        if how == "no gradient" and axis[0] == "bn1.weight":  # SGD leaves it alone, decay included
            assert torch.equal(case.model.bn1.weight, weight)
        else:
            torch.testing.assert_close(after[axis], 0.9 * old, rtol=1e-9, atol=1e-13)  # float64 rounding


@pytest.mark.parametrize("kind", KINDS)
def test_final_deviation_is_the_one_asked_for(kind):
    case, options = plain(), KINDS[kind]
    plan = plan_of(case, PLAIN)
    optimizer = sgd(case.model, options, 0.05)
    lrs = [0.05] * 300
    with csgd(case.model, plan, optimizer, deviation=1e-4, lrs=lrs, coupled=True) as hook:
        factor = coupled_curve(lrs, hook.strength, options)[-1]
        before = away(case.model, plan)
        steps(case.model, case, optimizer, 300)
    assert hook.predicted() == pytest.approx(1e-4, rel=1e-6)  # the solver's end
    for axis, left in away(case.model, plan).items():
        # rounding of 300 steps, each far larger than what is left of the deviation
        torch.testing.assert_close(left, factor * before[axis], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("count", [5, 20, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_short_runs_keep_the_law_where_the_strength_changes_and_momentum_is_there_already(kind, count):
    case, options = plain(), KINDS[kind]
    plan, optimizer = plan_of(case, PLAIN), sgd(case.model, options, 0.05)
    steps(case.model, case, optimizer, 3)
    pull = 0.5 * options.critical / 0.05 - options.weight_decay
    before = away(case.model, plan)
    with csgd(case.model, plan, optimizer, strength=pull, coupled=True) as hook:
        steps(case.model, case, optimizer, 2)
        hook.strength = 0.9 * options.critical / 0.05 - options.weight_decay  # as after steps that were skipped
        state = copy.deepcopy(hook.state_dict())
        motion = Motion(fresh=not options.momentum)
        for strength in [pull] * 2 + [hook.strength] * (count - 2):
            motion = advance(motion, 0.05, strength, momentum_of(optimizer.param_groups[0]))
        hook.load_state_dict(state)
        steps(case.model, case, optimizer, count - 2)
    for axis, left in away(case.model, plan).items():
        # float64 rounding of steps far larger than the deviation that is left
        torch.testing.assert_close(left, motion.left * before[axis], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_solver_counts_the_momentum_that_is_there(kind):
    options, start = KINDS[kind], Motion()
    for _ in range(10):
        start = advance(start, 0.05, 0.6 * options.critical / 0.05 - options.weight_decay, options)
    strength = solve_coupled_strength([0.05] * 60, 0.2, options, start)
    motion = start
    for _ in range(60):
        motion = advance(motion, 0.05, strength, options)
    assert motion.left == pytest.approx(0.2 * start.left, rel=1e-6)  # the solver's end


def test_without_momentum_there_is_no_dampening():
    case = plain()
    plan, optimizer = plan_of(case, PLAIN), sgd(case.model, Momentum(dampening=0.3, weight_decay=0.1), 0.05)
    before = away(case.model, plan)
    with csgd(case.model, plan, optimizer, strength=0.7, coupled=True):
        steps(case.model, case, optimizer, 3)
    curve = coupled_curve([0.05] * 3, 0.7, momentum_of(optimizer.param_groups[0]))
    assert curve[-1] == pytest.approx((1 - 0.05 * 0.8) ** 3, rel=1e-12)  # float64
    for axis, left in away(case.model, plan).items():
        torch.testing.assert_close(left, curve[-1] * before[axis], rtol=1e-9, atol=1e-13)  # float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.AdamW(p, lr=0.05), "AdamW would normalise"),
        (lambda p: Lion(p, lr=0.05), "Lion would normalise"),
        (lambda p: torch.optim.SGD(p, lr=0.05, maximize=True), "maximize=False, unlike parameter group 0"),
        (lambda p: torch.optim.SGD(p, lr=0.05, fused=True), "fused=False, unlike parameter group 0"),
    ],
)
def test_what_the_coupled_form_does_not_go_with(make, message):
    case = plain()
    optimizer = make(copy.deepcopy(case.model).parameters())
    with pytest.raises(OptionError, match=message):
        csgd(case.model, plan_of(case, PLAIN), optimizer, strength=1.0, coupled=True)
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize(
    ("lrs", "shrink", "message"),
    [
        ([0.1] * 10, 1e-6, "10 steps with learning rates up to 0.1 and momentum 0.9 cannot shrink the deviation"),
        ([0.1], 0.0, "must be above 0, not 0"),
        ([], 0.1, "it has 0 steps"),
        ([0.1, -0.1], 0.1, "0 and more"),
        ([0.0], 0.1, "one above 0"),
    ],
)
def test_strengths_that_cannot_be_solved(lrs, shrink, message):
    with pytest.raises(OptionError, match=message):
        solve_coupled_strength(lrs, shrink, KINDS["heavy ball"])


def test_no_pull_where_decay_suffices():
    assert solve_coupled_strength([0.1] * 100, 1.0, Momentum(0.9)) == 0.0
    assert solve_coupled_strength([0.05] * 500, 0.5, Momentum(0.9, weight_decay=0.02)) == 0.0
