"""What C-SGD cannot act on is refused, before the training or at the step that goes wrong."""

from __future__ import annotations

import contextlib

import pytest
import torch
from helpers.couplings.cases import Plain, plain
from helpers.csgd.steps import PLAIN, plan_of, started, steps
from timm.optim import Lion
from torch import nn

from fxprune.errors import NoPullWarning, OptionError, PlanError
from fxprune.passes.csgd.hook import csgd


def test_what_was_gathered_in_another_form_is_refused():
    case = plain()
    optimizer = torch.optim.LBFGS(case.model.parameters(), lr=0.05, max_iter=3)
    optimizer.step(
        lambda: (case.model.zero_grad(), loss := case.model(*case.inputs).square().mean(), loss.backward())[1]
    )
    with pytest.raises(OptionError, match=r"has gathered `d` .* begin C-SGD with a new optimizer"):
        csgd(case.model, plan_of(case, PLAIN), optimizer, strength=1.0)


def test_a_frozen_parameter_must_be_equal_already():
    case = plain()
    plan = plan_of(case, PLAIN)
    optimizer = torch.optim.SGD([p for n, p in case.model.named_parameters() if n != "bn1.bias"])
    with pytest.raises(OptionError, match=r"merges rows of `bn1\.bias`, but the optimizer does not hold"):
        csgd(case.model, plan, optimizer, strength=1.0)
    with torch.no_grad():
        case.model.bn1.bias.copy_(torch.tensor([0.1, 0.2, 0.1, 0.3, 0.2, 0.4, 0.1, 0.1]))
    csgd(case.model, plan, optimizer, strength=1.0)


@pytest.mark.parametrize("options", [{}, {"narrow": False}, {"coupled": True}])
@pytest.mark.parametrize(
    "replace",
    [
        lambda model: setattr(model.conv1, "weight", nn.Parameter(torch.randn_like(model.conv1.weight))),
        lambda model: setattr(model, "conv1", nn.Conv2d(3, 8, 3, padding=1).double()),
        lambda model: nn.utils.parametrizations.weight_norm(model.conv1),
    ],
    ids=["parameter", "layer", "parametrization"],
)
def test_a_parameter_that_is_replaced_stops_the_next_step(replace, options):
    case = plain()
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    with csgd(case.model, plan_of(case, PLAIN), optimizer, strength=1.0, **options):
        steps(case.model, case, optimizer, 1)
        replace(case.model)
        with pytest.raises(OptionError, match=r"something has replaced `conv1.weight` in the model"):
            steps(case.model, case, optimizer, 1)


def test_a_layer_that_is_wrapped_goes_on():
    case, optimizer, _ = started(torch.optim.SGD)
    weight = case.model.conv1.weight
    case.model.conv1 = nn.Sequential(case.model.conv1)  # as torch.compile does with a layer
    before = weight.detach().clone()
    steps(case.model, case, optimizer, 1)
    assert not torch.equal(weight, before)


WRONG = {
    "pull of one": ({"strength": 20.0}, r"lr \* strength = 0.05 \* 20 = 1 in parameter group 0"),
    "neither": ({}, "give either `deviation`, .*, with `lrs`, .*; or `strength`. There is no default"),
    "both": ({"strength": 1.0, "deviation": 1e-6, "lrs": [0.1]}, "give either `deviation`"),
    "no pull": ({"strength": 0.0}, "`strength` is 0; it must be above 0, or nothing pulls"),
    "negative": ({"strength": -1.0}, "`strength` is -1; it must be above 0"),
    "nan": ({"strength": float("nan")}, "`strength` is nan; it must be above 0"),
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


def test_two_hooks_on_one_optimizer_would_pull_twice():
    case = plain()
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    first = csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0)
    with pytest.raises(OptionError, match=r"another C-SGD hook .* pulls `conv1\.weight` already.*`remove\(\)` first"):
        csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0)
    first.remove()
    csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0)


def test_parameters_that_share_memory_are_refused():
    case = plain()
    bn = case.model.bn1
    bn.bias = nn.Parameter(bn.weight.detach())
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    with pytest.raises(OptionError, match=r"`bn1\.weight` and `bn1\.bias` are two parameters that share memory"):
        csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0)
    flat = torch.cat([bn.weight.detach(), bn.weight.detach()])
    bn.weight, bn.bias = map(nn.Parameter, flat.chunk(2))  # parts of one memory that do not overlap
    csgd(case.model, plan_of(case, PLAIN), torch.optim.SGD(case.model.parameters(), lr=0.05), strength=2.0)
    bn.weight, bn.bias = map(nn.Parameter, [flat[: len(bn.weight)], flat[2:][: len(bn.weight)]])
    with pytest.raises(OptionError, match=r"`bn1\.weight` and `bn1\.bias` are two parameters that share memory"):
        csgd(case.model, plan_of(case, PLAIN), torch.optim.SGD(case.model.parameters(), lr=0.05), strength=2.0)


def test_columns_of_one_tensor_train_as_tensors_of_their_own():
    ends = []
    for columns in (False, True):
        torch.manual_seed(0)
        case = plain()
        bn = case.model.bn1
        if columns:
            bn.weight, bn.bias = map(nn.Parameter, torch.stack([bn.weight, bn.bias], 1).detach().unbind(1))
        optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05, momentum=0.9)
        csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0)
        steps(case.model, case, optimizer, 5)
        ends.append(torch.stack([bn.weight, bn.bias]))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)  # float64


def test_parameters_that_do_not_train_are_refused():
    case = plain()
    optimizer = torch.optim.SGD(case.model.requires_grad_(False).parameters(), lr=0.05)
    with pytest.raises(OptionError, match=r"none of the 7 parameters that the plan merges takes gradients"):
        csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0)
    case.model.conv1.weight.requires_grad_(True)
    csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0)


@pytest.mark.parametrize(("rates", "pulls"), [([0.0, 0.0], False), ([0.0, 0.05], True), ([], True)])
def test_steps_at_learning_rate_0_alone_are_told(rates, pulls):
    case = plain()
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    told = contextlib.nullcontext() if pulls else pytest.warns(NoPullWarning, match="all 2 steps .* at learning rate 0")
    with told, csgd(case.model, plan_of(case, PLAIN), optimizer, strength=2.0):
        for lr in rates:  # a warm-up may begin at 0
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()


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
        csgd(case.model, plan_of(case, PLAIN), optimizer, strength=1.0),
        pytest.raises(OptionError, match=r"`conv1.bias` has a sparse"),
    ):
        optimizer.step()


def test_a_gradient_that_cannot_be_written_to_is_averaged_all_the_same():
    case = plain()
    optimizer = Lion(case.model.parameters(), lr=0.05)
    case.model.conv1.bias.grad = torch.ones((), dtype=torch.float64).expand(8)
    before = case.model.conv1.bias.detach().mean()
    with csgd(case.model, plan_of(case, PLAIN), optimizer, strength=1.0):
        optimizer.step()
    torch.testing.assert_close(case.model.conv1.bias.detach().mean(), before - 0.05, rtol=1e-12, atol=0)  # float64


@pytest.mark.parametrize(
    ("dtype", "bits", "amp"),
    [(torch.float16, 16, "float16"), (torch.bfloat16, 16, "bfloat16"), (torch.float8_e4m3fn, 8, "bfloat16")],
)
def test_weights_in_which_a_small_pull_is_rounded_away_are_refused(dtype, bits, amp):
    case = plain()
    optimizer = torch.optim.SGD(case.model.to(dtype).parameters(), lr=0.05)
    with pytest.raises(OptionError, match=rf"weights of {bits} bits provably do not .* amp='{amp}'.*torch\.autocast"):
        csgd(case.model, plan_of(case, PLAIN), optimizer, strength=1.0)
    assert not optimizer._optimizer_step_pre_hooks


def test_what_is_not_pulled_may_have_16_bits():
    case = plain()
    case.model.head.bfloat16()
    csgd(case.model, plan_of(case, PLAIN), torch.optim.SGD(case.model.parameters(), lr=0.05), strength=1.0)


def test_a_plan_for_another_network_is_refused():
    other = Plain(9)
    with pytest.raises(PlanError, match="made for another network"):
        csgd(other, plan_of(plain(), PLAIN), torch.optim.SGD(other.parameters()), strength=1.0)
