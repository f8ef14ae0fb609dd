"""Whatever a loop does around narrow steps, it ends where the wide form ends, or the wide form is taken."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.csgd_made import PLAIN, backward, plan_of, steps
from helpers.hand_made import plain
from timm.optim import Lamb

from fxprune.errors import OptionError
from fxprune.passes.csgd.hook import csgd


class OwnSgd(torch.optim.SGD):
    """A derived class may do anything in its step."""


def started(kind=torch.optim.AdamW, narrow=None, coupled=False, **options):
    torch.manual_seed(0)  # of the inputs: both forms are the same
    case = plain()
    optimizer = kind(case.model.parameters(), lr=0.05, **options)
    hook = csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0, narrow=narrow, coupled=coupled)
    return case, optimizer, hook


@pytest.mark.parametrize(
    ("kind", "options", "rows"),
    [
        (torch.optim.AdamW, {}, 4),
        (torch.optim.AdamW, {"narrow": False}, 8),
        (torch.optim.SGD, {"momentum": 0.9, "coupled": True}, 8),
        (OwnSgd, {"momentum": 0.9}, 8),
        (Lamb, {}, 8),
    ],
)
def test_narrow_steps_are_taken_where_they_are_right(kind, options, rows):
    case, optimizer, _ = started(kind, **options)
    backward(case.model, case, 0)
    optimizer.step()
    weight = case.model.conv1.weight
    assert {len(value) for value in optimizer.state[weight].values() if value.shape[1:] == weight.shape[1:]} == {rows}


def no_gradient(case, optimizer, seed):
    if seed % 2:
        case.model.bn1.weight.grad = None


def zero_gradients(case, optimizer, seed):
    optimizer.zero_grad(set_to_none=False)
    backward(case.model, case, seed)


def load_own_state(case, optimizer, seed):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def load_plain_state(case, optimizer, seed):
    """Load the state of an optimizer that never saw C-SGD: wide, and of several ages."""
    if seed == 2:
        other = type(optimizer)(case.model.parameters(), lr=0.05)
        for _ in range(3):
            other.step()
            case.model.conv2.weight.grad = None
        for value in (value for state in other.state.values() for value in state.values() if value.dim()):
            value.fill_(0.25)
        backward(case.model, case, seed)
        optimizer.load_state_dict(other.state_dict())


def clear_state(case, optimizer, seed):
    if seed == 2:
        optimizer.state.clear()


def wide_state_by_hand(case, optimizer, seed):
    if seed == 2:
        weight = case.model.conv1.weight
        optimizer.state[weight]["exp_avg"] = torch.zeros_like(weight)


def state_in_place(case, optimizer, seed):
    if seed == 2:
        optimizer.state[case.model.conv1.weight]["exp_avg"].zero_()


def count_in_place(case, optimizer, seed):
    if seed == 2:
        optimizer.state[case.model.bn1.weight]["step"].add_(100)


def counts_in_place(case, optimizer, seed):
    for state in optimizer.state.values():
        state["step"].add_(1)


def state_through_data(case, optimizer, seed):
    for state in optimizer.state.values():
        state["exp_avg"].data = state["exp_avg"].data * 0.5


def write_row_through_data(case, optimizer, seed):
    case.model.conv1.weight.data[3] = 0.25


def write_weights(case, optimizer, seed):
    with torch.no_grad():
        case.model.conv1.weight[3].add_(0.5)
        case.model.bn1.bias.data.clamp_(-0.01, 0.01)


def add_group(case, optimizer, seed):
    if seed == 1:
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.01})


ACTIONS = (
    no_gradient, zero_gradients, load_own_state, load_plain_state, clear_state, wide_state_by_hand, state_in_place,
    count_in_place, counts_in_place, state_through_data, write_row_through_data, write_weights, add_group,
)  # fmt: skip


def assert_equal_ends(take, kind=torch.optim.AdamW, **options):
    ends = []
    for narrow in (None, False):
        case, optimizer, hook = started(kind, narrow, **options)
        for seed in range(4):
            backward(case.model, case, seed)
            take(case, optimizer, seed)
        hook.remove()
        backward(case.model, case, 5)
        optimizer.step()  # with the state that the hook leaves
        ends.append(dict(case.model.named_parameters()))
    for name, end in ends[0].items():
        # Rounding of float64, which division by small second moments makes larger.
        torch.testing.assert_close(end, ends[1][name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("small", [0, 2**16])  # each weight alone, or together
@pytest.mark.parametrize("action", ACTIONS)
def test_what_is_done_between_steps_counts_as_in_the_wide_form(action, small, monkeypatch):
    for module in ("narrow_step", "bundles"):
        monkeypatch.setattr(f"fxprune.passes.csgd.{module}.SMALL", small)

    def take(case, optimizer, seed):
        action(case, optimizer, seed)
        optimizer.step()

    assert_equal_ends(take)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"maximize": True}])
def test_every_variant_ends_where_the_wide_form_ends(kind, options):
    assert_equal_ends(lambda case, optimizer, seed: optimizer.step(), kind, **options)


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients_and_skipped_steps_end_where_the_wide_form_ends(fused):
    scalers = {}

    def take(case, optimizer, seed):
        scaler = scalers.setdefault(optimizer, torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1))
        for parameter in case.model.parameters():
            parameter.grad = scaler.scale(parameter.grad)
        if seed == 1:
            case.model.conv1.weight.grad[0] = torch.inf
        scaler.step(optimizer)
        scaler.update()

    assert_equal_ends(take, fused=fused)


def test_a_closure_sees_wide_parameters():
    def take(case, optimizer, seed):
        def closure():
            held = zip(optimizer.param_groups[0]["params"], case.model.parameters(), strict=True)
            assert all(one is other for one, other in held)
            backward(case.model, case, seed)
            return case.model(*case.inputs).sum()

        optimizer.step(closure)

    assert_equal_ends(take)


@pytest.mark.parametrize("early", [False, True])
def test_other_hooks_see_wide_parameters_and_may_change_them(early):
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
        each() if each else csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0)
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


def test_a_parameter_that_moves_to_another_group_stops_the_step():
    case, optimizer, _ = started()
    group = optimizer.param_groups[0]
    moved = group["params"].pop(0)
    optimizer.add_param_group({"params": [moved], "lr": 0.01})
    backward(case.model, case, 0)
    with pytest.raises(OptionError, match=r"`conv1.weight` has moved from parameter group 0 .* to group 1"):
        optimizer.step()


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
