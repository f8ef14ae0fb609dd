"""A trace replaces functions of PyTorch for its own thread only, and one thread couples at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from helpers.rewrites.merges import narrow_snapped
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxprune
from fxprune.errors import CaptureError

_BESIDE: list[Callable[[], None]] = []  # what the next forward call does beside its own work


class Beside(nn.Module):
    """A network whose first call is traced, and starts something in another thread."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        while _BESIDE:
            _BESIDE.pop()()
        return self.last(self.first(x).relu())


class Thrice(torch.autograd.Function):
    """A function whose gradient asks which inputs need one."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return 3 * x

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return 3 * gradient if ctx.needs_input_grad[0] else None


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 2)).eval()


def test_other_threads_run_as_ever_while_one_traces(monkeypatch):
    network, inputs, told = small(), torch.ones(3, 4), []
    expected = network(inputs)

    def serve() -> None:
        try:
            with torch.no_grad():
                told.append(torch.is_grad_enabled() or network(inputs).requires_grad)
            out = Thrice.apply(network(inputs))
            out.sum().backward()
            told.append(not torch.equal(out, 3 * expected) or network[0].weight.grad is None)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                told.append(network(inputs).dtype is not torch.bfloat16)
        except BaseException as error:
            told.append(error)

    def beside() -> None:
        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()

    model, images = Beside().eval(), torch.randn(1, 3, 8, 8)
    alone = fxprune.couple(model, images)
    _BESIDE.append(beside)
    coupling = fxprune.couple(model, images)
    assert told == [False, False, False]
    assert str(coupling.graph_module.graph) == str(alone.graph_module.graph)
    assert coupling.graph_module.meta == alone.graph_module.meta
    assert coupling.digest == alone.digest


def test_a_second_thread_couples_after_the_first():
    network, inputs, found = small(), torch.ones(3, 4), []
    thread = threading.Thread(target=lambda: found.append(fxprune.couple(network, inputs).digest))

    def beside() -> None:
        thread.start()
        thread.join(0.2)  # as long as another trace would take, if it did not wait

    replaced = (nn.Module, torch.Tensor, torch.autograd.Function, torch.no_grad)
    before = [dict(vars(each)) for each in replaced]
    _BESIDE.append(beside)
    fxprune.couple(Beside().eval(), torch.randn(1, 3, 8, 8))
    thread.join()
    assert found == [fxprune.couple(network, inputs).digest]
    assert [dict(vars(each)) for each in replaced] == before


class Pooled(nn.Module):
    """A network that runs a branch in a thread of its own, in a mode or not."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)

    def branch(self, x):
        if self.mode == "asks":
            return self.norm(x) * (2 if torch.is_grad_enabled() else 1)
        if self.mode == "asks first":
            return (2 if torch.is_grad_enabled() else 1) * self.norm(x)
        if self.mode == "calls a layer of its own first":
            return nn.Conv2d(1, 8, 1)(torch.ones(1, 1, 1, 1)).detach() * self.norm(x)
        if self.mode == "a gradient of its own first":
            return Thrice.apply(torch.ones(1, requires_grad=True)) * self.norm(x)
        if self.mode == "a constant by a function first":
            return Thrice.apply(torch.ones(1)) * self.norm(x)
        if self.mode == "an activation that the call makes":
            return self.norm(nn.ReLU()(x))
        if self.mode == "layers that the call puts together":
            return nn.Sequential(self.norm, nn.Sigmoid())(x)
        if self.mode == "PyTorch's own modes":
            return checkpoint(self.norm, x, use_reentrant=False)
        if self.mode == "sets one first":
            with torch.no_grad():
                return self.norm(x)
        return self.norm(x)

    def forward(self, x):
        x = self.first(x)
        with ThreadPoolExecutor(1) as pool:
            return self.last(x + pool.submit(self.branch, x).result())


@pytest.mark.parametrize(
    "mode",
    [
        "none",
        "asks",
        "a constant by a function first",
        "an activation that the call makes",
        "layers that the call puts together",
        "PyTorch's own modes",
    ],
)
def test_a_branch_in_a_thread_of_the_model_becomes_narrow(mode):
    torch.manual_seed(0)
    model, images = Pooled(mode).eval().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model.norm.running_mean.normal_()
    plan = fxprune.plan(fxprune.couple(model, images), keep=0.5)
    snapped = fxprune.snap(model, plan)
    narrow = narrow_snapped(model, plan)
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(narrow(images), snapped(images), rtol=1e-12, atol=1e-12)  # float64 sums


@pytest.mark.parametrize(
    "mode", ["asks first", "sets one first", "calls a layer of its own first", "a gradient of its own first"]
)
def test_what_is_not_recorded_of_a_thread_that_is_not_known_yet_is_refused(mode):
    with pytest.raises(CaptureError, match=r"a thread of the model asks for modes, .* before it computes"):
        fxprune.couple(Pooled(mode).eval(), torch.randn(2, 3, 8, 8))


def forked_beside_a_trace(holds):
    """Exit codes of a child that another thread forks while one traces: 0 if the condition holds there."""
    codes = []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            try:
                os._exit(int(not holds()))
            finally:
                os._exit(2)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    def beside() -> None:
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()

    _BESIDE.append(beside)
    fxprune.couple(Beside().eval(), torch.randn(1, 3, 8, 8))
    return codes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_process_that_another_thread_forks_in_a_trace_runs_as_ever():
    network, inputs = small(), torch.ones(3, 4)

    def runs() -> bool:
        with torch.no_grad():
            return network(inputs).shape == (3, 2)

    assert forked_beside_a_trace(runs) == [0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_process_that_another_thread_forks_in_a_trace_couples_its_own():
    images, model = torch.randn(1, 3, 8, 8), Pooled("an activation that the call makes").eval()
    groups = [*fxprune.couple(model, images).groups]
    assert forked_beside_a_trace(lambda: [*fxprune.couple(model, images).groups] == groups) == [0]
