"""PyTorch keeps modes for each thread, a graph has one thread: what a trace takes of both, and what it refuses."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.capture.tracing import SymbolicTracer
from fxprune.errors import CaptureError


class Around(nn.Module):
    """A network that starts a thread in a mode; it may go on where the thread fails."""

    def __init__(self, mode: Any, caught: bool) -> None:
        super().__init__()
        self.mode, self.caught = mode, caught
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        x = self.first(x)
        with self.mode(), ThreadPoolExecutor(1) as pool:
            try:
                y = pool.submit(self.norm, x).result()
            except Exception:
                if not self.caught:
                    raise
                y = 0
        return self.last(x + y)


def half() -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


_IN_A_MODE = "a thread of the model computes while another one is in a mode"


@pytest.mark.parametrize("caught", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, half])
def test_a_thread_that_is_started_in_a_mode_is_refused(mode, caught):
    """PyTorch keeps modes for each thread: the new one records gradients."""
    with pytest.raises(CaptureError, match=_IN_A_MODE):
        fxprune.couple(Around(mode, caught).eval(), torch.randn(2, 3, 8, 8))


class TwoBranches(nn.Module):
    """A network with two branches in two threads at once, of which one is in a mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.first(x)
        entered, done = threading.Event(), threading.Event()

        def in_a_mode() -> Any:
            y = x.relu()
            with torch.no_grad():
                entered.set()
                done.wait(5)
                return self.left(y)

        def in_none() -> Any:
            entered.wait(5)
            try:
                return self.right(x)
            finally:
                done.set()

        with ThreadPoolExecutor(2) as pool:
            branches = [pool.submit(in_a_mode), pool.submit(in_none)]
            return self.last(sum(each.result() for each in branches))


def test_a_thread_beside_one_in_a_mode_is_refused():
    with pytest.raises(CaptureError, match=_IN_A_MODE):
        fxprune.couple(TwoBranches().eval(), torch.randn(2, 3, 8, 8))


class Left(nn.Module):
    """A network that enters a mode in one thread and leaves it in another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        mode = torch.no_grad()
        mode.__enter__()
        x = self.first(x)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(mode.__exit__, None, None, None).result()
        return self.last(x)


def test_a_mode_that_another_thread_leaves_is_not_traced():
    before = torch.is_grad_enabled()
    with pytest.raises(CaptureError, match=_IN_A_MODE):
        fxprune.couple(Left().eval(), torch.randn(2, 3, 8, 8), ways=("symbolic", "concrete"))
    assert torch.is_grad_enabled() == before


def test_a_value_that_one_thread_computes_pauses_no_other():
    tracer, told = SymbolicTracer((torch.ones(1),)), []
    with tracer.modes.pause():
        thread = threading.Thread(target=lambda: told.append(tracer.modes.paused))
        thread.start()
        thread.join()
        assert tracer.modes.paused
    assert told == [False]
