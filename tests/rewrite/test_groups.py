"""Mixtures of experts by products of groups: exported with any batch, and at widths that PyTorch takes."""

from __future__ import annotations

import pytest
import torch
from samples import Net, free, linear
from samples.contraction import experts
from torch import nn

import fxprune
from fxprune.costs import Cost, cost
from fxprune.errors import PlanError
from fxprune.node_facts import Shape
from fxprune.passes.rewrite.places import _may_meet

TOKENS = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))


def mixture() -> nn.Module:
    layers = {"a": linear(8, 16), "r": linear(16, 4), "head": linear(16, 4)}
    return Net(lambda s, x: s.head(experts(s, s.a(x))), **layers, up=free(4, 16, 24), down=free(4, 24, 16)).eval()


def test_it_is_exported_for_any_batch_and_with_experts_that_nothing_picks(tmp_path):
    net = mixture()
    plan = fxprune.plan(fxprune.couple(net, TOKENS), method="even", keep=0.5)
    narrow = fxprune.narrow(fxprune.snap(net, plan), plan)
    # The file multiplies all rows by all experts, in another order of sums than PyTorch.
    report = fxprune.export_onnx(narrow, TOKENS, tmp_path / "narrow.onnx", batches=(1, 2, 7), tolerance=1e-5)
    assert report.errors.keys() == {1, 2, 7}


def test_widths_that_pytorch_does_not_take_are_refused():
    net = mixture()
    coupling = fxprune.couple(net, TOKENS)
    plan = fxprune.plan(coupling, method="even", keep=0.4)
    with pytest.raises(PlanError, match="takes multiples of 4 of float32 only: plan with round_to=4"):
        fxprune.narrow(fxprune.snap(net, plan), plan)
    plan = fxprune.plan(coupling, method="even", keep=0.4, round_to=4)
    snapped = fxprune.snap(net, plan)
    # Sums in another order.
    torch.testing.assert_close(fxprune.narrow(snapped, plan)(TOKENS), snapped(TOKENS), rtol=1e-5, atol=1e-5)


def test_each_row_costs_one_expert():
    net = mixture()
    layers = 15 * (8 * 16 + 16 * 4 + 16 * 4 + 2 * 16 * 24)
    parameters = sum(each.numel() for each in net.parameters())
    assert cost(net, TOKENS) == cost(fxprune.couple(net, TOKENS)) == Cost(parameters, layers)


def test_a_vector_of_another_length_meets_no_flat_axis():
    vector = Shape((12,), (None,))
    assert not _may_meet(vector, 192)
    assert _may_meet(vector, 12) and _may_meet(Shape((12, 4), (None, None)), 192) and _may_meet(3.0, 192)
