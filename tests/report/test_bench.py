"""Timings of both networks, whatever inputs they take."""

from __future__ import annotations

import pytest
import torch
from samples import linear
from torch import Tensor, nn

import fxprune
from fxprune.arguments.inputs import tensors_of
from fxprune.costs import PairedTimes
from fxprune.errors import OptionError
from fxprune.passes.report.bench import bench
from fxprune.passes.report.run_folder import Run, WideNetwork

LEFT, RIGHT = torch.randn(2, 6), torch.randn(2, 4)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = linear(6, 8), linear(4, 8), linear(8, 3)

    def forward(self, left, right):
        return {"out": self.head((self.a(left) + self.b(right)).relu()), "sum": left.sum(1)}


@pytest.mark.parametrize("example", [(LEFT, RIGHT), {"right": RIGHT, "left": LEFT}], ids=["in order", "by name"])
def test_networks_of_several_inputs_are_timed_in_both_runtimes(example, monkeypatch):
    wide = TwoInputs().eval()
    plan = fxprune.plan(fxprune.couple(wide, example))
    snapped = fxprune.snap(wide, plan)
    run = Run(fxprune.narrow(snapped, plan), WideNetwork(snapped, plan), "", example)
    monkeypatch.setitem(bench.__globals__, "open_run", lambda _: run)
    calls = []

    def alternated(wide, narrow):
        calls.append([sum(map(Tensor.numel, tensors_of(call()))) for call in (wide, narrow)])
        return PairedTimes(8.0, 0.25, 17)

    monkeypatch.setitem(bench.__globals__, "alternated", alternated)
    found = bench("out", [1, 3])
    assert [(each.runtime, each.batch) for each in found.timings] == [
        (runtime, batch) for runtime in ("PyTorch", "onnxruntime") for batch in (1, 3)
    ]
    assert [(each.wide_ms, each.narrow_ms, each.pairs) for each in found.timings] == [(8.0, 2.0, 17)] * 4
    assert calls == [[4 * batch] * 2 for batch in (1, 3)] * 2  # both networks, at the same batch
    assert [line.split()[-2:] for line in str(found).splitlines()[2:6]] == [["4.00", "17"]] * 4


def test_a_batch_has_a_sample():
    with pytest.raises(OptionError, match="batch sizes are 1 or more, and below"):
        bench("out", [4, 0])
