"""The rewrite is checked in float64 on the plan's own graph, unless it branches by its precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxprune
from fxprune.passes.verify import verify_rewrite

X = torch.randn(2, 3, 8, 8)


class Normed(nn.Module):
    """Divides by a norm, and perhaps by another epsilon in float64."""

    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.branches, self.a, self.b = branches, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        x = self.a(x).relu()
        eps = 1e-3 if self.branches and x.dtype == torch.float64 else 1e-6
        return self.b(x / (x.abs().amax(1, keepdim=True) + eps))


@pytest.mark.parametrize("branches", [False, True])
def test_a_float64_copy_is_analysed_anew_only_where_it_branches_by_its_precision(branches):
    torch.manual_seed(0)
    model = Normed(branches).eval()
    plan = fxprune.plan(fxprune.couple(model, X), keep=0.5)
    report, double, here = verify_rewrite(fxprune.snap(model, plan), plan, (X,), batches=(1, 3))
    assert report.passed, str(report)
    assert here.coupling.network is double and here == plan
    assert (here.coupling.graph_module is not plan.coupling.graph_module) is branches


def test_a_network_that_is_not_snapped_does_not_pass():
    model = Normed(False).eval()
    report, _, _ = verify_rewrite(model, fxprune.plan(fxprune.couple(model, X), keep=0.5), (X,), batches=())
    assert not report.passed and report.max_rel_error > 1e-3
