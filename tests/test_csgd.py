"""C-SGD: the deviation of a cluster shrinks by exactly 1 - lr * eps per step, under any optimizer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hand_made import Plain, plain, square
from timm.optim import MADGRAD, Lamb, Lion
from torch import nn

import fxprune
from fxprune.errors import OptionError, PlanError
from fxprune.passes.csgd import csgd
from fxprune.passes.snap import snap
from fxprune.passes.strength import solve_strength
from fxprune.plans import Plan

PLAIN = {"conv1.weight": [0, 1, 0, 2, 1, 3, 0, 0], "conv2.weight": [0, 1, 2, 1, 0, 2]}
SQUARE = {"rows.weight": [0, 1, 1, 0, 2, 1], "columns.weight": [0, 0, 1, 2, 3, 2, 1, 4]}


def plan_of(case, clusters):
    return Plan(case.coupling, {name: np.array(labels) for name, labels in clusters.items()})


def away(model, plan):
    """{(name, dim): rows minus the mean of their cluster}, worked out with a plain loop."""
    parameters, result = dict(model.named_parameters()), {}
    for cut in plan.partitions():
        if cut.tied and cut.parameter in parameters:
            rows = parameters[cut.parameter].detach().movedim(cut.dim, 0).double()
            means = torch.stack([rows[torch.as_tensor(cut.cluster == label)].mean(0) for label in cut.cluster])
            result[cut.parameter, cut.dim] = rows - means
    return result


def backward(model, case, seed):
    """Gradients of a new random loss: they differ within every cluster."""
    inputs = [x + 0.1 * seed for x in case.inputs]
    model.zero_grad()
    out = model(*inputs)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype)).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def steps(model, case, optimizer, count, scheduler=None):
    for seed in range(count):
        backward(model, case, seed)
        optimizer.step()
        if scheduler:
            scheduler.step()


def assert_shrunk(before, after, factor, rtol=1e-9):
    # rtol: float64 rounding of steps that are up to 1e3 times as large as what is left of the deviation.
    for axis, old in before.items():
        torch.testing.assert_close(after[axis], factor * old, rtol=rtol, atol=1e-13)


OPTIMIZERS = {
    "sgd": lambda p, decay: torch.optim.SGD(p, lr=0.05, weight_decay=decay),
    "momentum": lambda p, decay: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=decay),
    "nesterov": lambda p, decay: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=decay),
    "adam": lambda p, decay: torch.optim.Adam(p, lr=0.05, weight_decay=decay),
    "amsgrad, one by one": lambda p, decay: torch.optim.Adam(
        p, lr=0.05, amsgrad=True, foreach=False, weight_decay=decay
    ),
    "adamw": lambda p, decay: torch.optim.AdamW(p, lr=0.05, weight_decay=decay),
    "adafactor": lambda p, decay: torch.optim.Adafactor(p, lr=0.05, weight_decay=decay),
    "lion": lambda p, decay: Lion(p, lr=0.05, weight_decay=decay),
    "lamb": lambda p, decay: Lamb(p, lr=0.05, weight_decay=decay, always_adapt=True),
}


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


def test_gradients_within_a_cluster_become_their_mean():
    case = plain()
    plan = plan_of(case, PLAIN)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.0)
    backward(case.model, case, 0)
    case.model.bn1.weight.grad = None
    raw = {name: p.grad.clone() for name, p in case.model.named_parameters() if p.grad is not None}
    with csgd(case.model, plan, optimizer):
        optimizer.step()
    cluster = torch.tensor(PLAIN["conv1.weight"])
    for name in ("conv1.weight", "conv1.bias", "bn1.bias"):
        means = torch.stack([raw[name][cluster == label].mean(0) for label in cluster])
        torch.testing.assert_close(
            case.model.get_parameter(name).grad, means, rtol=1e-13, atol=1e-13
        )  # float64 rounding
    assert torch.equal(case.model.head.weight.grad, raw["head.weight"])
    assert case.model.bn1.weight.grad is None


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


def test_what_was_gathered_in_another_form_is_refused():
    case = plain()
    optimizer = torch.optim.LBFGS(case.model.parameters(), lr=0.05, max_iter=3)
    optimizer.step(
        lambda: (case.model.zero_grad(), loss := case.model(*case.inputs).square().mean(), loss.backward())[1]
    )
    with pytest.raises(OptionError, match=r"has gathered `d` .* begin C-SGD with a new optimizer"):
        csgd(case.model, plan_of(case, PLAIN), optimizer)


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
                hook.aim(asked, lrs[15:])
            optimizer.param_groups[0]["lr"] = lrs[step]
            optimizer.step()
            # float64 rounding over what is left
            assert hook.deviation().largest == pytest.approx(hook.predicted(), rel=1e-8)
    assert hook.predicted() == pytest.approx(asked, rel=1e-9)  # the solver's end


def test_deviation_is_the_largest_row_over_the_rms_row_norm():
    case = plain()
    plan = Plan(case.coupling, {"conv1.weight": np.array([0, 1, 0, 2, 3, 4, 5, 6])})
    with torch.no_grad():
        for p in (case.model.conv1.weight, case.model.conv1.bias, case.model.bn1.weight, case.model.bn1.bias):
            p.fill_(0.0)
        case.model.conv1.weight[[0, 2], 0, 0, 0] = torch.tensor([3.0, 1.0], dtype=torch.float64)
        case.model.bn1.weight[0] = 4.0
    deviation = csgd(case.model, plan, torch.optim.SGD(case.model.parameters())).deviation()
    assert deviation.largest == pytest.approx(2.0 / (16 / 8) ** 0.5, rel=1e-12)
    assert deviation.median == pytest.approx(
        1.0 / (10 / 8) ** 0.5 / 2, rel=1e-12
    )  # of 0, 0, the other one and the largest
    assert deviation.where == "bn1.weight:0"


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


def test_a_frozen_parameter_must_be_equal_already():
    case = plain()
    plan = plan_of(case, PLAIN)
    optimizer = torch.optim.SGD([p for n, p in case.model.named_parameters() if n != "bn1.bias"])
    with pytest.raises(OptionError, match=r"merges rows of `bn1\.bias`, but the optimizer does not hold"):
        csgd(case.model, plan, optimizer)
    with torch.no_grad():
        case.model.bn1.bias.copy_(torch.tensor([0.1, 0.2, 0.1, 0.3, 0.2, 0.4, 0.1, 0.1]))
    csgd(case.model, plan, optimizer)


WRONG = {
    "pull of one": ({"strength": 20.0}, r"lr \* strength = 0.05 \* 20 = 1 in parameter group 0"),
    "negative": ({"strength": -1.0}, r"must lie in \[0, 1\)"),
    "nan": ({"strength": float("nan")}, r"must lie in \[0, 1\)"),
    "lrs without deviation": ({"lrs": [0.1]}, "go together"),
    "deviation without lrs": ({"deviation": 1e-6}, "go together"),
    "deviation of nothing": ({"deviation": 0.0, "lrs": [0.1]}, "must be above 0"),
    "no steps": ({"deviation": 1e-6, "lrs": []}, "it has 0 steps"),
    "no rates": ({"deviation": 1e-6, "lrs": [0.0, 0.0]}, "it has 2 steps from 0 to 0"),
    "out of reach": ({"deviation": 1e-30, "lrs": [0.1, 0.0]}, "2 steps with learning rates up to 0.1 cannot shrink"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options(case):
    options, message = WRONG[case]
    net = plain()
    optimizer = torch.optim.SGD(net.model.parameters(), lr=0.05)
    with pytest.raises(OptionError, match=message):
        csgd(net.model, plan_of(net, PLAIN), optimizer, **options)
    assert not optimizer._optimizer_step_pre_hooks


def test_a_rate_that_grows_too_large_stops_the_step():
    case = plain()
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    with csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0):
        optimizer.param_groups[0]["lr"] = 0.5
        with pytest.raises(OptionError, match="overshoots"):
            optimizer.step()


def test_sparse_gradients_are_refused():
    case = plain()
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    case.model.conv1.bias.grad = torch.ones(8, dtype=torch.float64).to_sparse()
    with (
        csgd(case.model, plan_of(case, PLAIN), optimizer),
        pytest.raises(OptionError, match=r"`conv1.bias` has a sparse"),
    ):
        optimizer.step()


def test_a_plan_for_another_network_is_refused():
    other = Plain(9)
    with pytest.raises(PlanError, match="made for another network"):
        csgd(other, plan_of(plain(), PLAIN), torch.optim.SGD(other.parameters()))


COSINE = [0.05 * (1 + np.cos(np.pi * t / 100)) for t in range(100)]


@pytest.mark.parametrize(
    ("lrs", "shrink"),
    [([0.1], 0.5), ([0.1] * 1000, 1e-6), (COSINE, 1e-8), (COSINE, 1e-3), ([0.0, 0.1], 1e-9)],
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


def test_public_name():
    assert fxprune.csgd is csgd
