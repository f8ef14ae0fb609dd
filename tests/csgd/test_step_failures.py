"""A step that fails leaves weights, gradients and state as they were."""

from __future__ import annotations

import sys

import pytest
import torch
from helpers.csgd.steps import CHOSEN, PLAIN, assert_shrunk, away, backward, copies, plan_of, started, steps


def test_a_step_that_fails_inside_the_optimizer_leaves_no_trace(monkeypatch):
    case, optimizer, hook = started(torch.optim.SGD, narrow=True, momentum=0.9)
    steps(case.model, case, optimizer, 1)
    old = copies(case.model.named_parameters())
    places = [id(p) for p in optimizer.param_groups[0]["params"]]
    backward(case.model, case, 1)

    def fail(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["torch.optim.sgd"], "sgd", fail)
        with pytest.raises(MemoryError):
            optimizer.step()
    for name, parameter in case.model.named_parameters():
        assert torch.equal(parameter, old[name])
    optimizer.zero_grad()
    shapes = [tuple(s["momentum_buffer"].shape) for s in optimizer.state_dict()["state"].values()]
    assert shapes == [tuple(p.shape) for p in case.model.parameters()]
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == places
    assert all(case.model.get_parameter(name).grad is None for name in CHOSEN)
    before = away(case.model, plan_of(case, PLAIN))
    steps(case.model, case, optimizer, 1)
    assert_shrunk(before, away(case.model, plan_of(case, PLAIN)), 0.9)
    hook.remove()


@pytest.mark.parametrize("options", [{"narrow": True}, {"narrow": False}, {"narrow": False, "coupled": True}])
def test_a_step_that_fails_is_undone_at_once(options, monkeypatch):
    case, optimizer, hook = started(torch.optim.SGD, momentum=0.9, **options)
    steps(case.model, case, optimizer, 2)
    before = copies(case.model.named_parameters())
    backward(case.model, case, 1)
    gradients = {name: parameter.grad.clone() for name, parameter in case.model.named_parameters()}

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["torch.optim.sgd"], "sgd", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            optimizer.step()
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert all(a is b for a, b in zip(held, case.model.parameters(), strict=True))
    for name, parameter in case.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=1e-15, atol=1e-16)  # one rounding
        assert torch.equal(parameter.grad, gradients[name])
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in case.model.parameters())
    hook.remove()
    assert "step" not in vars(optimizer)
