"""What others see of narrow steps, in hooks, gradients and states, is as wide as the network."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.couplings.cases import plain
from helpers.csgd.steps import PLAIN, backward, plan_of, started, steps
from timm.optim import Lamb

from fxprune.errors import OptionError
from fxprune.passes.csgd.hook import csgd


@pytest.mark.parametrize("narrow", [None, False])
@pytest.mark.parametrize("early", [False, True])
def test_other_hooks_see_parameters_as_they_are_and_may_change_them(early, narrow):
    case = plain()
    optimizer = torch.optim.AdamW(case.model.parameters(), lr=0.05)
    weight, seen = case.model.conv1.weight, []

    def before(*_):
        assert optimizer.param_groups[0]["params"][0] is weight
        weight.grad.mul_(2.0)
        seen.append((weight.detach().clone(), weight.grad.clone()))

    def after(*_):
        assert optimizer.param_groups[0]["params"][0] is weight
        seen.append((weight.detach().clone(), weight.grad.clone()))

    def others():
        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    for each in (others, None) if early else (None, others):
        each() if each else csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0, narrow=narrow)
    backward(case.model, case, 0)
    given = weight.detach().clone(), weight.grad.clone()
    optimizer.step()
    assert torch.equal(seen[0][0], given[0]) and torch.equal(seen[0][1], 2.0 * given[1])
    assert torch.equal(seen[1][0], weight) and torch.equal(seen[1][1], 2.0 * given[1])
    assert not torch.equal(weight, given[0])


def test_another_hook_that_would_see_rows_stops_the_step():
    case, optimizer, _ = started()
    before = copy.deepcopy(case.model.state_dict())
    type(optimizer).step(optimizer)  # alone, it may step by its class
    optimizer.register_step_pre_hook(lambda *_: None)
    backward(case.model, case, 0)
    after = copy.deepcopy(case.model.state_dict())
    with pytest.raises(OptionError, match=r"another hook .* would see one row per cluster.*`optimizer.step\(\)`"):
        type(optimizer).step(optimizer)
    assert all(torch.equal(tensor, after[name]) for name, tensor in case.model.state_dict().items())
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])  # by the pull of the first step


@pytest.mark.parametrize("narrow", [None, False])
def test_a_parameter_that_moves_to_another_group_stops_the_step(narrow):
    case, optimizer, _ = started(narrow=narrow)
    group = optimizer.param_groups[0]
    moved = group["params"].pop(0)
    optimizer.add_param_group({"params": [moved], "lr": 0.01})
    backward(case.model, case, 0)
    with pytest.raises(OptionError, match=r"`conv1.weight` has moved from parameter group 0 .* to group 1"):
        optimizer.step()


def test_hooks_on_state_dicts_see_wide_state():
    case, seen = plain(), []
    optimizer = torch.optim.AdamW(case.model.parameters(), lr=0.05)
    optimizer.register_state_dict_post_hook(lambda _, state: seen.append(state["state"][0]["exp_avg"].shape))
    csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0)
    backward(case.model, case, 0)
    optimizer.step()
    optimizer.state_dict()
    assert seen == [case.model.conv1.weight.shape]


def test_states_that_leave_share_no_memory():
    case, optimizer, hook = started()
    backward(case.model, case, 0)
    optimizer.step()
    saved, copied = optimizer.state_dict()["state"], copy.deepcopy(optimizer).state
    hook.remove()
    for states in (saved, copied, optimizer.state):
        counts = [each["step"] for each in states.values()]
        assert len({count.data_ptr() for count in counts}) == len(counts) == len(list(case.model.parameters()))


@pytest.mark.parametrize("kind", [Lamb, torch.optim.SGD])
def test_given_gradients_are_there_after_a_step(kind):
    case, optimizer, _ = started(kind)
    backward(case.model, case, 0)
    given = {name: parameter.grad for name, parameter in case.model.named_parameters()}
    before = copy.deepcopy(given)
    optimizer.step()
    for name, parameter in case.model.named_parameters():
        assert parameter.grad is given[name] and torch.equal(parameter.grad, before[name])


@pytest.mark.parametrize("narrow", [None, False])
def test_a_state_of_other_weights_leaves_the_weights_alone(narrow):
    case, optimizer, hook = started(torch.optim.SGD, narrow)
    best = copy.deepcopy(case.model.state_dict())
    steps(case.model, case, optimizer, 3)
    last = hook.state_dict()
    case.model.load_state_dict(best)
    hook.load_state_dict(last)
    optimizer.param_groups[0]["lr"] = 1e-12
    optimizer.step()
    for name, tensor in case.model.state_dict().items():
        torch.testing.assert_close(tensor, best[name], rtol=0, atol=1e-9)  # a step at this rate is smaller


def test_a_state_takes_rests_of_some_names_and_none_that_rounding_cannot_have_left():
    case, optimizer, hook = started(torch.optim.SGD, narrow=False)
    steps(case.model, case, optimizer, 1)
    state = hook.state_dict()
    gone, *others = state["rests"]
    assert others
    wrong = {name: torch.full_like(state["rests"][name], torch.nan) for name in others}
    hook.load_state_dict({**state, "rests": wrong})
    assert list(hook.state_dict()["rests"]) == others
    steps(case.model, case, optimizer, 1)
    assert gone in hook.state_dict()["rests"]
    assert all(parameter.isfinite().all() for parameter in case.model.parameters())


@pytest.mark.parametrize("narrow", [None, False])
@pytest.mark.parametrize("wrong", [1e12, float("nan")])
@torch.no_grad()
def test_rounding_of_numbers_that_are_gone_does_not_come_back(wrong, narrow):
    case, optimizer, _ = started(torch.optim.SGD, narrow)
    best = copy.deepcopy(case.model.state_dict())
    for parameter in case.model.parameters():
        parameter.add_(wrong * torch.rand_like(parameter))
    optimizer.step()
    case.model.load_state_dict(best)
    optimizer.param_groups[0]["lr"] = 1e-12
    optimizer.step()
    for name, tensor in case.model.state_dict().items():
        torch.testing.assert_close(tensor, best[name], rtol=0, atol=1e-9)  # a step at this rate is smaller


def test_a_state_is_that_of_weights_loaded_after_it():
    case, optimizer, hook = started(torch.optim.SGD)
    steps(case.model, case, optimizer, 2)
    saved = copy.deepcopy((case.model.state_dict(), hook.state_dict()))
    ends = []
    for order in (1, -1):
        steps(case.model, case, optimizer, 1)
        for target, state in [(case.model, saved[0]), (hook, saved[1])][::order]:
            target.load_state_dict(state)
        backward(case.model, case, 5)
        optimizer.step()
        ends.append(copy.deepcopy(case.model.state_dict()))
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_two_hooks_on_one_optimizer_copy_wide_states():
    cases = [plain(), plain()]
    optimizer = torch.optim.AdamW([p for case in cases for p in case.model.parameters()], lr=0.05)
    hooks = [csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0) for case in cases]
    for case in cases:
        backward(case.model, case, 0)
    optimizer.step()
    for hook in (None, *hooks):
        if hook is not None:
            hook.remove()
        copied = copy.deepcopy(optimizer)
        assert all(state["exp_avg"].shape == parameter.shape for parameter, state in copied.state.items())
    assert "__getstate__" not in vars(optimizer)


def test_a_parameter_that_stands_twice_in_a_group_is_stepped_on_twice():
    case = plain()
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = torch.optim.SGD([*case.model.parameters(), case.model.conv1.weight], lr=0.05, momentum=0.9)
    csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0)
    backward(case.model, case, 0)
    optimizer.step()
    assert len(optimizer.state[case.model.conv1.weight]["momentum_buffer"]) == 8
