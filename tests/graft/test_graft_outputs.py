"""Outputs that do not count are computed by a graft, and not compared."""

from __future__ import annotations

import pytest
import torch
from helpers.rewrites.merges import narrow_snapped
from torch import Tensor, nn

import fxprune


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


class Several(nn.Module):
    """Scores, and features that came on the way; with an auxiliary head, further scores of its own."""

    def __init__(self, *, auxiliary: bool) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head, self.auxiliary = nn.Linear(8, 5), nn.Linear(8, 4) if auxiliary else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        inner = self.stem(x).relu()
        features = self.body(inner).relu()
        outputs = {"scores": self.head(features.mean((2, 3))), "features": features}
        return outputs if self.auxiliary is None else {**outputs, "more": self.auxiliary(inner.mean((2, 3)))}


def test_outputs_that_do_not_count_are_computed_and_not_compared() -> None:
    model = Several(auxiliary=False).eval()
    plan = fxprune.plan(fxprune.couple(model, images(12), outputs="scores"), keep=0.5)
    narrow = narrow_snapped(model, plan)
    found = fxprune.graft(model, narrow)(images(12))
    assert torch.allclose(found["scores"], narrow(images(12))["scores"], atol=1e-6)  # float32
    assert found["features"].shape[1] == 4


def test_layers_of_outputs_that_do_not_count_stand_in_the_way_and_are_told() -> None:
    model = Several(auxiliary=True).eval()
    plan = fxprune.plan(fxprune.couple(model, images(12), outputs="scores"), keep=0.5)
    narrow = narrow_snapped(model, plan)
    with pytest.raises(fxprune.errors.GraftError, match=r"no outputs but `scores`.* stayed wide"):
        fxprune.graft(model, narrow)
    model.auxiliary = None  # type: ignore[assignment]
    assert fxprune.graft(model, narrow).stem.out_channels == 4
