"""A model that writes into a list of tensors is traced, and the list of the caller stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxprune
from fxprune.capture import capture
from fxprune.errors import CaptureError

GIVEN = [torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]


class Same(nn.Module):
    """Returns what it is given; stays one node."""

    def forward(self, x):
        return x


class Pathways(nn.Module):
    """Writes what its layers make of each member into the list, before and behind a fusion."""

    def __init__(self, fusion):
        super().__init__()
        self.first = nn.ModuleList([nn.Linear(3, 8), nn.Linear(3, 8)])
        self.second = nn.ModuleList([nn.Linear(8, 6), nn.Linear(8, 6)])
        self.fusion, self.head = fusion, nn.Linear(6, 4)

    def forward(self, x):
        for layers in self.first, self.second:
            for place, layer in enumerate(layers):
                x[place] = layer(x[place]).relu()
            x = self.fusion(x)
        return self.head(x[0] + x[1])


def test_a_list_that_an_identity_passes_on_is_written():
    model = Pathways(nn.Identity()).eval()
    given = list(GIVEN)
    plan = fxprune.plan(fxprune.couple(model, (given,)), keep=0.5)
    assert len(plan.widths) == 3
    snapped = fxprune.snap(model, plan)
    narrow = fxprune.narrow(snapped, plan)
    torch.testing.assert_close(narrow(given), snapped(list(GIVEN)))
    assert all(each is was for each, was in zip(given, GIVEN, strict=True))


def test_a_list_that_another_layer_passes_on_is_refused_with_what_to_do(monkeypatch):
    model = Pathways(Same()).eval()
    monkeypatch.setattr(Same, "__module__", "torch.nn.modules.linear")  # so that it stays one node
    with pytest.raises(CaptureError, match=r"writes into a list .* Write into a copy: `x = list\(x\)`"):
        capture(model, (list(GIVEN),), ways=["symbolic", "concrete"])
