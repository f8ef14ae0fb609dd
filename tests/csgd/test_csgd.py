"""C-SGD: the deviation of a cluster shrinks by exactly 1 - lr * eps per step, under any optimizer."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch
from helpers.couplings.cases import Plain, plain, square
from helpers.csgd.steps import OPTIMIZERS, PLAIN, SQUARE, assert_shrunk, away, backward, plan_of, steps
from timm.optim import MADGRAD, Lamb

import fxprune
from fxprune.errors import NoPullWarning
from fxprune.passes.csgd.hook import csgd


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_law(name):
    case = plain()
    plan = plan_of(case, PLAIN)
    optimizer = OPTIMIZERS[name](case.model.parameters(), 0.0)
    before, weights = away(case.model, plan), copy.deepcopy(case.model.state_dict())
    with csgd(case.model, plan, optimizer, strength=2.0):
        steps(case.model, case, optimizer, 7)
    assert_shrunk(before, away(case.model, plan), 0.9**7)
    head = case.model.head.weight.detach()  # reads, so no pull moves it
    assert (head - weights["head.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_does_not_bend_the_law(name):
    # Decay of the rows themselves would stay in momentum and moments, and outlast the deviation that it came from.
    case = plain()
    plan = plan_of(case, PLAIN)
    optimizer = OPTIMIZERS[name](case.model.parameters(), 0.4)
    before, mean = away(case.model, plan), case.model.conv1.weight.detach()[[0, 2, 6, 7]].mean(0)
    with csgd(case.model, plan, optimizer, strength=2.0):
        for count in range(1, 8):
            backward(case.model, case, count)
            optimizer.step()
            assert_shrunk(before, away(case.model, plan), 0.9**count)
    assert (case.model.conv1.weight[[0, 2, 6, 7]].mean(0) - mean).abs().max() > 1e-3


@pytest.mark.parametrize("count", [5, 15, 50])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_short_runs_keep_the_law_to_the_end(name, count):
    case = plain()
    plan = plan_of(case, PLAIN)
    steps(case.model, case, optimizer := OPTIMIZERS[name](case.model.parameters(), 0.1), 2)
    lrs = [0.05 * (1 - step / count) for step in range(count)]
    before = away(case.model, plan)
    with csgd(case.model, plan, optimizer, deviation=1e-5, lrs=lrs) as hook:
        factor = np.prod([1 - lr * hook.strength for lr in lrs])
        assert factor < 1e-5
        for seed, lr in enumerate(lrs):
            optimizer.param_groups[0]["lr"] = lr
            backward(case.model, case, seed)
            optimizer.step()
    for axis, left in away(case.model, plan).items():
        # float64 rounding of steps that are up to 1e5 times as large as what is left
        torch.testing.assert_close(left, factor * before[axis], rtol=1e-8, atol=1e-13)


def test_weights_remembered_from_the_first_step_do_not_bring_the_deviation_back():
    case = plain()
    plan = plan_of(case, PLAIN)
    optimizer = MADGRAD(case.model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    before = away(case.model, plan)
    with csgd(case.model, plan, optimizer, strength=2.0):
        steps(case.model, case, optimizer, 7)
    assert_shrunk(before, away(case.model, plan), 0.9**7)


def test_a_step_that_fails_leaves_the_weights_as_they_were():
    case = plain()
    plan = plan_of(case, PLAIN)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    old = {name: p.detach().clone() for name, p in case.model.named_parameters()}
    before = away(case.model, plan)

    class Failure(Exception):
        pass

    def fail(*_):
        raise Failure

    backward(case.model, case, 0)
    with csgd(case.model, plan, optimizer, strength=2.0) as hook:
        handle = optimizer.register_step_pre_hook(fail)
        for _ in range(2):
            with pytest.raises(Failure):
                optimizer.step()
        hook.deviation()
        for name, parameter in case.model.named_parameters():
            torch.testing.assert_close(parameter.detach(), old[name], rtol=1e-15, atol=1e-16)  # one rounding
        handle.remove()
        optimizer.step()
    assert_shrunk(before, away(case.model, plan), 0.9)


def test_without_the_hook_the_law_does_not_hold():
    case = plain()
    plan = plan_of(case, PLAIN)
    optimizer = OPTIMIZERS["sgd"](case.model.parameters(), 0.0)
    hook = csgd(case.model, plan, optimizer, strength=2.0)
    hook.remove()
    hook.remove()
    before = away(case.model, plan)
    steps(case.model, case, optimizer, 1)
    with pytest.raises(AssertionError):
        assert_shrunk(before, away(case.model, plan), 0.9)
    with pytest.raises(AssertionError):
        assert_shrunk(before, away(case.model, plan), 1.0)


def test_each_parameter_has_the_rate_of_its_own_group_at_the_time_of_the_step():
    case = plain()
    plan = plan_of(case, PLAIN)
    biases = [p for n, p in case.model.named_parameters() if n.endswith("bias")]
    weights = [p for n, p in case.model.named_parameters() if not n.endswith("bias")]
    optimizer = torch.optim.SGD([{"params": weights, "lr": 0.1}, {"params": biases, "lr": torch.tensor(0.02)}])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step == 0 else 0.5**step)
    optimizer.load_state_dict(optimizer.state_dict())  # makes new group dicts
    before = away(case.model, plan)
    with csgd(case.model, plan, optimizer, strength=2.0):
        steps(case.model, case, optimizer, 3, scheduler)
    after = away(case.model, plan)
    for bias, lr in ((False, 0.1), (True, 0.02)):
        factor = (1 - lr) * (1 - lr / 2)  # the rates of the three steps: 0, lr / 2, lr / 4
        chosen = {axis: old for axis, old in before.items() if axis[0].endswith("bias") == bias}
        assert_shrunk(chosen, after, factor, rtol=1e-7)  # the second rate is a float32 tensor


def test_two_tied_axes_are_pulled_one_after_the_other():
    case = square()
    plan = plan_of(case, SQUARE)
    optimizer = OPTIMIZERS["adam"](case.model.parameters(), 0.0)
    old = case.model.table.detach().clone()
    before = away(case.model, plan)
    with csgd(case.model, plan, optimizer, strength=2.0):
        steps(case.model, case, optimizer, 1)
    rows, columns = (torch.tensor(labels) for labels in SQUARE.values())
    mean_rows, mean_columns = (
        (labels[:, None] == labels) / (labels[:, None] == labels).sum(1, keepdim=True).double()
        for labels in (rows, columns)
    )
    gone = old - mean_rows @ old  # what rows deviate by, with and without what columns deviate by besides
    shared = gone @ mean_columns
    expected = 0.9 * shared + 0.81 * (gone - shared)
    torch.testing.assert_close(away(case.model, plan)["table", 0], expected, rtol=1e-9, atol=1e-13)  # float64 rounding
    single = {axis: value for axis, value in before.items() if axis[0] != "table"}
    assert_shrunk(single, away(case.model, plan), 0.9)


@pytest.mark.parametrize("kind", [torch.optim.SGD, Lamb])
def test_the_optimizer_sees_mean_gradients_of_clusters(kind):
    case = plain()
    plan = plan_of(case, PLAIN)
    backward(case.model, case, 0)
    case.model.bn1.weight.grad = None
    raw = {name: p.grad.clone() for name, p in case.model.named_parameters() if p.grad is not None}
    seen = {}

    class Seeing(kind):
        def step(self, closure=None):
            seen.update((name, parameter.grad) for name, parameter in case.model.named_parameters())
            return super().step(closure)

    optimizer = Seeing(case.model.parameters(), lr=0.0)
    hook = csgd(case.model, plan, optimizer, strength=2.0, narrow=False)
    optimizer.step()
    with pytest.warns(NoPullWarning):
        hook.remove()
    cluster = torch.tensor(PLAIN["conv1.weight"])
    for name in ("conv1.weight", "conv1.bias", "bn1.bias"):
        means = torch.stack([raw[name][cluster == label].mean(0) for label in cluster])
        torch.testing.assert_close(seen[name], means, rtol=1e-13, atol=1e-13)  # float64 rounding
    assert case.model.bn1.weight.grad is None
    assert all(torch.equal(case.model.get_parameter(name).grad, gradient) for name, gradient in raw.items())


def test_a_narrow_step_sees_the_mean_gradient_of_each_cluster(monkeypatch):
    case, seen = plain(), []
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    backward(case.model, case, 0)
    raw = case.model.conv1.weight.grad
    monkeypatch.setattr(sys.modules["torch.optim.sgd"], "sgd", lambda _, gradients, *__, **___: seen.extend(gradients))
    with csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0):
        optimizer.step()
    cluster = torch.tensor(PLAIN["conv1.weight"])
    means = torch.stack([raw[cluster == label].mean(0).flatten() for label in cluster.unique()])
    # float64 rounding
    assert any(each.shape == means.shape and torch.allclose(each, means, rtol=1e-13, atol=1e-13) for each in seen)


@pytest.mark.parametrize("how", ["closure", "closure by name", "lbfgs", "scaler"])
def test_law_where_gradients_are_made_or_scaled_elsewhere(how):
    case = plain()
    plan = plan_of(case, PLAIN)
    kind = {"lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.05, max_iter=3)}.get(
        how, lambda p: torch.optim.SGD(p, lr=0.05)
    )
    optimizer = kind(case.model.parameters())
    before = away(case.model, plan)

    def closure():
        optimizer.zero_grad()
        loss = case.model(*case.inputs).square().mean()
        loss.backward()
        return loss

    with csgd(case.model, plan, optimizer, strength=2.0):
        if how == "scaler":
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            scaler.scale(case.model(*case.inputs).square().mean()).backward()
            scaler.step(optimizer)
        else:
            loss = optimizer.step(closure=closure) if how == "closure by name" else optimizer.step(closure)
            assert loss > 0
    assert_shrunk(before, away(case.model, plan), 0.9)


def test_momentum_gathered_before_does_not_push_members_apart():
    case = plain()
    plan = plan_of(case, PLAIN)
    optimizer = OPTIMIZERS["adam"](case.model.parameters(), 0.0)
    steps(case.model, case, optimizer, 3)
    before = away(case.model, plan)
    with csgd(case.model, plan, optimizer, strength=2.0):
        steps(case.model, case, optimizer, 3)
    assert_shrunk(before, away(case.model, plan), 0.9**3)


def test_one_optimizer_may_hold_a_parameter_for_several_modules():
    case = plain()
    twin = Plain().double()
    twin.conv1 = case.model.conv1
    optimizer = torch.optim.SGD([*twin.parameters(), *set(case.model.parameters()) - set(twin.parameters())], lr=0.05)
    plan = plan_of(case, PLAIN)
    before = away(case.model, plan)
    with csgd(case.model, plan, optimizer, strength=2.0):
        steps(case.model, case, optimizer, 1)
    assert_shrunk(before, away(case.model, plan), 0.9)


def test_public_name():
    assert fxprune.csgd is csgd
