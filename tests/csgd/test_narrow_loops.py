"""Whatever a loop does around narrow steps, it ends where the wide form ends, or the wide form is taken."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from helpers.csgd.steps import backward, started
from timm.optim import Lamb, Lookahead

from fxprune.passes.csgd.bundles import is_foreign
from fxprune.passes.csgd.narrow_step import POINTWISE


class OwnSgd(torch.optim.SGD):
    """A derived class may do anything in its step."""


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
    """Load the state of an optimizer that never saw C-SGD: wide, uneven, and of several ages."""
    if seed == 2:
        other = type(optimizer)(case.model.parameters(), lr=0.05)
        for _ in range(3):
            other.step()
            case.model.conv2.weight.grad = None
        for value in (value for state in other.state.values() for value in state.values() if value.dim()):
            value.copy_(torch.linspace(0.1, 1.0, value.numel()).view_as(value))
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


def state_of_others(case, optimizer, seed):
    optimizer.state["calls"] = seed
    for parameter in case.model.parameters() if seed else ():  # before a step, an optimizer takes it for its own
        assert optimizer.state[parameter].setdefault("slow", parameter.detach().clone()).shape == parameter.shape


def add_group(case, optimizer, seed):
    if seed == 1:
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 10.0})


ACTIONS = (
    no_gradient, zero_gradients, load_own_state, load_plain_state, clear_state, wide_state_by_hand, state_in_place,
    count_in_place, counts_in_place, state_through_data, write_row_through_data, write_weights, state_of_others,
    add_group,
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


@pytest.mark.parametrize("narrow", [None, False])
def test_a_fused_step_that_finds_no_finite_gradients_pulls_nothing(narrow):
    case, optimizer, hook = started(torch.optim.SGD, narrow, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before, predicted = copy.deepcopy(case.model.state_dict()), hook.predicted()
    scaler.scale(torch.inf * case.model(*case.inputs).sum()).backward()
    scaler.step(optimizer)
    assert hook.predicted() == predicted
    for name, tensor in case.model.named_parameters():
        torch.testing.assert_close(tensor.detach(), before[name], rtol=1e-15, atol=1e-16)  # one rounding


def test_wrappers_may_keep_slow_weights_in_the_state():
    wrappers = {}

    def take(case, optimizer, seed):
        wrappers.setdefault(optimizer, Lookahead(optimizer, k=2)).step()

    assert_equal_ends(take)


@pytest.mark.parametrize("kind", POINTWISE)
def test_all_that_an_optimizer_remembers_of_each_number_is_known(kind):
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    parameter.grad = torch.ones(3, 2)
    options = [{"momentum": 0.9}, {"amsgrad": True}, {"centered": True, "momentum": 0.9}, {}]
    for each in options:
        if each.keys() <= inspect.signature(kind).parameters.keys():
            optimizer = kind([parameter], **each)
            optimizer.step()
            assert not [name for name, value in optimizer.state[parameter].items() if is_foreign(name, value)]


def test_steps_may_be_taken_in_inference_mode():
    case, optimizer, hook = started(torch.optim.AdamW)
    before = hook.predicted()
    for seed in range(3):
        backward(case.model, case, seed)
        with torch.inference_mode():
            optimizer.step()
    assert hook.predicted() < before


def test_a_derived_class_that_calls_the_step_of_its_base_counts_it_once():
    class Twice(torch.optim.AdamW):
        def step(self, closure=None):
            return super().step(closure)

    predicted = []
    for kind in (torch.optim.AdamW, Twice):
        case, optimizer, hook = started(kind)
        backward(case.model, case, 0)
        optimizer.step()
        predicted.append(hook.predicted())
    assert predicted[0] == predicted[1]


def test_a_closure_sees_wide_parameters():
    def take(case, optimizer, seed):
        def closure():
            held = zip(optimizer.param_groups[0]["params"], case.model.parameters(), strict=True)
            assert all(one is other for one, other in held)
            backward(case.model, case, seed)
            return case.model(*case.inputs).sum()

        optimizer.step(closure)

    assert_equal_ends(take)
