"""The optimizer steps on one row per cluster; nobody but the optimizer can tell."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from helpers.couplings.cases import plain
from helpers.csgd.steps import CHOSEN, PLAIN, assert_shrunk, away, backward, copies, plan_of, steps
from timm.optim import Lamb

from fxprune.errors import OptionError
from fxprune.passes.csgd.hook import csgd
from fxprune.passes.csgd.narrow_step import POINTWISE


def made():
    torch.manual_seed(0)  # of the inputs: all cases of a test are the same
    return plain()


def started(kind=torch.optim.AdamW, lr=0.05, case=None, narrow=True, coupled=False, **options):
    case = case or made()
    optimizer = kind(case.model.parameters(), lr=lr, **options)
    hook = csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0, narrow=narrow, coupled=coupled)
    return case, optimizer, hook


@pytest.mark.parametrize("kind", POINTWISE)
@pytest.mark.parametrize("small", [0, 2**16])
def test_every_optimizer_ends_where_the_wide_form_ends(kind, small, monkeypatch):
    monkeypatch.setattr("fxprune.passes.csgd.narrow_step.SMALL", small)
    monkeypatch.setattr("fxprune.passes.csgd.bundles.PIECE", 30)
    ends = []
    for narrow in (True, False):
        decay = {} if kind is torch.optim.Rprop else {"weight_decay": 0.1}
        case, optimizer, hook = started(kind, lr=0.01, narrow=narrow, **decay)
        steps(case.model, case, optimizer, 5)
        hook.remove()
        steps(case.model, case, optimizer, 2)  # goes on with the state that the hook left
        ends.append(copies(case.model.named_parameters()))
    for name, end in ends[0].items():
        # Rounding of float64, which division by small second moments makes larger.
        torch.testing.assert_close(end, ends[1][name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layouts_of_weights_and_gradients_are_kept(layout):
    case = made()
    case.model.to(memory_format=layout)
    _, optimizer, hook = started(case=case)
    twin, reference, wide = started()
    before = away(case.model, plan_of(case, PLAIN))
    for seed in range(3):
        backward(case.model, case, seed)
        backward(twin.model, twin, seed)
        weight = case.model.conv2.weight
        weight.grad = weight.grad.contiguous()
        optimizer.step()
        reference.step()
        assert weight.is_contiguous(memory_format=layout)
    assert_shrunk(before, away(case.model, plan_of(case, PLAIN)), 0.9**3)
    for name, parameter in case.model.named_parameters():
        torch.testing.assert_close(parameter, twin.model.get_parameter(name), rtol=1e-9, atol=1e-9)  # float64 rounding
    hook.remove()
    wide.remove()


def test_the_state_is_narrow_inside_and_wide_outside():
    case, optimizer, hook = started()
    steps(case.model, case, optimizer, 2)
    weight = case.model.conv1.weight
    assert len(optimizer.state[weight]["exp_avg"]) == 4 < len(weight)
    index = next(i for i, p in enumerate(optimizer.param_groups[0]["params"]) if p is weight)
    moments = optimizer.state_dict()["state"][index]["exp_avg"]
    assert moments.shape == weight.shape
    cluster = torch.tensor(PLAIN["conv1.weight"])
    assert torch.equal(moments, optimizer.state[weight]["exp_avg"][cluster])
    hook.remove()
    assert torch.equal(optimizer.state[weight]["exp_avg"], moments)


COUPLED = {"momentum": 0.9, "narrow": None, "coupled": True}


@pytest.mark.parametrize("hooked_first", [True, False])
@pytest.mark.parametrize(
    ("kind", "options"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {}), (torch.optim.SGD, COUPLED)]
)
def test_a_run_goes_on_from_its_state_to_the_bit(kind, options, hooked_first):
    case, optimizer, hook = started(kind, **options)
    steps(case.model, case, optimizer, 3)
    saved = copy.deepcopy((case.model.state_dict(), optimizer.state_dict(), hook.state_dict()))
    steps(case.model, case, optimizer, 3)
    other, again, second = started(kind, **options)
    other.model.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    if not hooked_first:
        second.remove()
        form = {name: value for name, value in options.items() if name != "momentum"}
        second = csgd(other.model, plan_of(other, PLAIN), again, strength=2.0, **form)
    second.load_state_dict(saved[2])
    steps(other.model, other, again, 3)
    for name, parameter in case.model.named_parameters():
        assert torch.equal(parameter, other.model.get_parameter(name)), name


def test_a_state_of_another_version_lets_the_weights_tell():
    case, optimizer, hook = started()
    steps(case.model, case, optimizer, 2)
    state = hook.state_dict()
    del state["narrow"]
    before = away(case.model, plan_of(case, PLAIN))
    hook.load_state_dict(state)
    steps(case.model, case, optimizer, 1)
    assert_shrunk(before, away(case.model, plan_of(case, PLAIN)), 0.9)


WRITES = {
    "in place": lambda parameter, new: parameter.copy_(new),
    "through data": lambda parameter, new: parameter.data.copy_(new),
    "other memory": lambda parameter, new: setattr(parameter, "data", new.clone()),
}


@pytest.mark.parametrize("small", [0, 2**16])  # each alone, or together
@pytest.mark.parametrize("write", WRITES)
@torch.no_grad()
def test_what_others_write_between_steps_counts(write, small, monkeypatch):
    monkeypatch.setattr("fxprune.passes.csgd.narrow_step.SMALL", small)
    case, optimizer, _ = started(torch.optim.SGD, lr=0.05)
    with torch.enable_grad():
        steps(case.model, case, optimizer, 2)
    optimizer.zero_grad()
    new = {name: torch.randn_like(case.model.get_parameter(name)) for name in CHOSEN}
    for name, value in new.items():
        WRITES[write](case.model.get_parameter(name), value)
    before, means = away(case.model, plan_of(case, PLAIN)), new["conv1.weight"][[0, 2, 6, 7]].mean(0)
    for name in CHOSEN:
        case.model.get_parameter(name).grad = torch.zeros_like(new[name])
    optimizer.step()
    assert_shrunk(before, away(case.model, plan_of(case, PLAIN)), 0.9)
    torch.testing.assert_close(case.model.conv1.weight[[0, 2, 6, 7]].mean(0), means, rtol=1e-12, atol=1e-13)  # float64


@pytest.mark.parametrize("scheduled_first", [True, False])
def test_a_scheduler_wraps_a_step_that_is_guarded(scheduled_first):
    case, made_at = made(), []
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    make = [
        lambda: made_at.append(torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)),
        lambda: made_at.append(csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0, narrow=True)),
    ]
    for each in make if scheduled_first else make[::-1]:
        each()
    scheduler, hook = made_at if scheduled_first else made_at[::-1]
    steps(case.model, case, optimizer, 2)
    scheduler.step()  # it warns where it has not seen a step
    hook.remove()
    steps(case.model, case, optimizer, 1)
    assert optimizer.param_groups[0]["lr"] == 0.025


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_the_optimizer_holds_wide_state(copied):
    case, optimizer, hook = started()
    steps(case.model, case, optimizer, 2)
    twin, wanted = copied(optimizer), optimizer.state_dict()["state"]
    for index, state in twin.state_dict()["state"].items():
        assert all(torch.equal(value, wanted[index][name]) for name, value in state.items())
        assert state["exp_avg"].shape == twin.param_groups[0]["params"][index].shape
    backward(case.model, case, 1)
    optimizer.step()  # goes on with narrow state of its own
    hook.remove()
    assert "__getstate__" not in vars(optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("others_write", [False, True])  # as what restores weights after trying others
def test_small_pulls_of_float32_add_up(others_write):
    case = plain()
    case.model.float()
    optimizer = torch.optim.SGD(case.model.parameters(), lr=1e-3)
    plan = plan_of(case, PLAIN)
    with torch.no_grad():  # to a size of which a pull is less than a unit in the last place
        case.model.conv1.weight.sub_(0.999 * away(case.model, plan)["conv1.weight", 0])
    before = away(case.model, plan)["conv1.weight", 0]
    with csgd(case.model, plan, optimizer, strength=1.0, narrow=True):
        for parameter in case.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for _ in range(3000):
            if others_write:
                case.model.conv1.weight.data = case.model.conv1.weight.detach().clone()
            optimizer.step()
    left = np.float64(0.999) ** 3000
    # One rounding of the sum, 6e-8 of numbers near 1, whatever the number of steps.
    torch.testing.assert_close(away(case.model, plan)["conv1.weight", 0], before * left, rtol=1e-6, atol=2e-7)


def test_two_hooks_on_one_optimizer_pull_each_its_own():
    case, other = made(), made()
    optimizer = torch.optim.SGD([*case.model.parameters(), *other.model.parameters()], lr=0.05, momentum=0.9)
    places = [id(p) for p in optimizer.param_groups[0]["params"]]
    plans = [plan_of(each, PLAIN) for each in (case, other)]
    pairs = list(zip((case, other), plans, strict=True))
    hooks = [csgd(each.model, plan, optimizer, strength=2.0, narrow=True) for each, plan in pairs]
    before = [away(each.model, plan) for each, plan in pairs]
    for seed in range(3):
        for each in (case, other):
            backward(each.model, each, seed)
        optimizer.step()
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == places
    for each, plan, old in zip((case, other), plans, before, strict=True):
        assert_shrunk(old, away(each.model, plan), 0.9**3)
    first, second = map(weakref.ref, hooks)
    hooks.pop(0).remove()
    gc.collect()
    assert first() is None  # no matter that it was the inner one
    assert second() is not None
    hooks.pop().remove()
    assert "step" not in vars(optimizer)


@pytest.mark.parametrize(("kind", "options"), [(Lamb, {}), (torch.optim.SGD, {"coupled": True})])
def test_steps_that_see_more_than_each_number_are_refused(kind, options):
    case = made()
    optimizer = kind(case.model.parameters(), lr=0.05)
    with pytest.raises(OptionError, match="`narrow` is for PyTorch's own pointwise optimizers"):
        csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0, narrow=True, **options)


@pytest.mark.parametrize("small", [0, 2**16])  # each alone, or together
@pytest.mark.parametrize("row", range(8))
@torch.no_grad()
def test_each_row_counts_where_it_is_written_through_data_at_any_time(row, small, monkeypatch):
    for module in ("narrow_step", "bundles"):
        monkeypatch.setattr(f"fxprune.passes.csgd.{module}.SMALL", small)
    case, optimizer, _ = started(torch.optim.SGD)
    for _ in range(10):
        optimizer.step()
    case.model.conv1.weight.data[row] += 1.0
    before = away(case.model, plan_of(case, PLAIN))
    optimizer.step()
    assert_shrunk(before, away(case.model, plan_of(case, PLAIN)), 0.9)
