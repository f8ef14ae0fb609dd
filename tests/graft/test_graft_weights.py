"""A class that computes its weights gets tensors from which it computes the narrow ones, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.merges import narrow_snapped
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import fxprune
from fxprune.passes.verify import randomised


class Standardised(nn.Conv2d):
    """Weight standardisation, whose view takes the number of rows from an attribute; a gain for each row, or none."""

    def __init__(self, *args: int, gain: bool = True) -> None:
        super().__init__(*args)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1)) if gain else 1.0

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True).reshape_as(self.weight) * self.gain
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def narrowed(*layers: nn.Module) -> tuple[nn.Module, torch.fx.GraphModule, Tensor]:
    net, x = randomised(nn.Sequential(*layers)).eval(), torch.randn(2, 3, 12, 12)
    plan = fxprune.plan(fxprune.couple(net, x), keep=0.5)
    return net, narrow_snapped(net, plan), x


KINDS = {"standardised": lambda *args: Standardised(*args), "normed": lambda *args: weight_norm(nn.Conv2d(*args))}


@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_of_a_computed_weight_goes_into_its_gain(kind: str) -> None:
    make = KINDS[kind]
    net, narrow, x = narrowed(make(3, 8, 3), nn.ReLU(), make(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 3))
    grafted = fxprune.graft(net, narrow)
    assert [(layer.in_channels, layer.out_channels) for layer in (grafted[0], grafted[2])] == [(3, 4), (4, 6)]  # type: ignore[index]
    assert torch.allclose(grafted(x), narrow(x), rtol=1e-4, atol=1e-5)
    assert all(parameter.shape[0] in (4, 6) for parameter in grafted.parameters())


def test_it_grafts_from_a_folder(tmp_path: Path) -> None:
    net, narrow, x = narrowed(Standardised(3, 8, 3), nn.ReLU(), Standardised(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 3))
    fxprune.save(narrow, tmp_path)
    grafted = fxprune.graft(net, fxprune.load(tmp_path))
    assert torch.allclose(grafted(x), narrow(x), rtol=1e-4, atol=1e-5)


class Fixed(Standardised):
    """The number of rows stands in the code."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(self.weight.reshape(1, 12, -1), None, None, training=True).reshape_as(self.weight)
        return F.conv2d(x, weight * self.gain, self.bias)


@pytest.mark.parametrize("layer", [Standardised(8, 12, 3, gain=False), Fixed(8, 12, 3)], ids=["no gain", "literal"])
def test_what_no_tensors_give_is_refused_by_name(layer: nn.Module) -> None:
    net, narrow, _ = narrowed(Standardised(3, 8, 3), nn.ReLU(), layer, nn.Conv2d(12, 4, 3))
    with pytest.raises(fxprune.GraftError, match=r"computes `2\.weight` at graft/test_graft_weights\.py:\d+"):
        fxprune.graft(net, narrow)
