"""A signal that arrives inside the hook loses at most the step that it broke off."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from helpers.csgd.steps import PLAIN, assert_shrunk, away, backward, plan_of, started, steps

from fxprune.passes.csgd import means


class Interrupt(BaseException):
    """A signal in the hook."""


def interrupt():
    raise Interrupt


def interrupted_at(count, optimizer):
    """Take a step, and raise where Python looks for signals for the count-th time: after calls."""

    def look(frame, event, _):
        nonlocal count
        if event in ("call", "c_return") and f"{os.sep}csgd{os.sep}" in frame.f_code.co_filename:
            count -= 1
            if count == 0:
                raise Interrupt

    sys.setprofile(look)
    try:
        optimizer.step()
    except Interrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(("narrow", "before"), [(True, 0), (True, 2), (False, 2)])
def test_a_signal_in_the_hook_loses_at_most_the_step(narrow, before):
    count, broken = 1, True
    while broken:
        case, optimizer, _ = started(torch.optim.SGD, narrow=narrow, momentum=0.9)
        steps(case.model, case, optimizer, before)
        backward(case.model, case, 9)
        given = [parameter.grad for parameter in case.model.parameters()]
        old = away(case.model, plan_of(case, PLAIN))
        broken = interrupted_at(count, optimizer)
        count += 9
        assert all(parameter.grad is grad for parameter, grad in zip(case.model.parameters(), given, strict=True))
        now = away(case.model, plan_of(case, PLAIN))
        assert all(torch.allclose(now[axis], old[axis]) or torch.allclose(now[axis], 0.9 * old[axis]) for axis in now)
        steps(case.model, case, optimizer, 2)
        assert_shrunk(now, away(case.model, plan_of(case, PLAIN)), 0.81)
        states = optimizer.state_dict()["state"]
        for index, parameter in enumerate(case.model.parameters()):
            assert states[index]["momentum_buffer"].shape == parameter.shape
    assert count > 150  # enough places to stop at


def test_a_signal_between_portions_of_the_first_step_loses_only_that(monkeypatch):
    monkeypatch.setattr(means, "PORTION", 1)
    case, optimizer, hook = started(torch.optim.SGD, narrow=False)
    backward(case.model, case, 9)
    project = hook._means.project
    monkeypatch.setattr(hook._means, "project", lambda given: project(given) if not hook._means._away else interrupt())
    with pytest.raises(Interrupt):
        optimizer.step()
    monkeypatch.undo()
    old = away(case.model, plan_of(case, PLAIN))
    steps(case.model, case, optimizer, 1)
    assert_shrunk(old, away(case.model, plan_of(case, PLAIN)), 0.9)
