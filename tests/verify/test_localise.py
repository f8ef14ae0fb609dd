"""The first node that differs is named, and the run that ends there leaves PyTorch as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxprune
from fxprune.passes.merge import captured_with
from fxprune.passes.verify.localise import first_node

MODES = {
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu"),
}


class Inside(nn.Module):
    """A network with a layer in a mode."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, self.first, self.inner, self.last = mode, nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        y = self.first(x)
        with MODES[self.mode]():
            return self.last(self.inner(y).sin()).float()


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_ends_inside_a_mode_leaves_it(mode):
    torch.manual_seed(0)
    model, x = Inside(mode).eval(), torch.randn(4, 16)
    plan = fxprune.plan(fxprune.couple(model, x), keep=0.5)
    snapped = fxprune.snap(model, plan)
    narrow = fxprune.narrow(snapped, plan)
    with torch.no_grad():
        narrow.inner.weight.add_(1.0)
    before = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    found = first_node(captured_with(plan.coupling, snapped), narrow, plan, (x,), tolerance=1e-2)
    after = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    assert found.startswith("inner ") and before == after
