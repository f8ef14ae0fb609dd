"""A network that takes two samples or more is folded, verified and timed at sizes that it takes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers.command_line import run
from helpers.tiny import Tiny, tiny_data

from fxprune.costs import latency
from fxprune.errors import OptionError
from fxprune.passes.job import fold_job
from fxprune.passes.report import bench
from fxprune.passes.verify import prove

IMAGES = torch.empty(2, 1, 8, 8, device="meta")


class Several(Tiny):
    """Takes another branch for one sample than for several."""

    def forward(self, x):
        return super().forward(x * 2 if x.shape[0] > 1 else x)


def net():
    torch.manual_seed(1)
    return Several().eval()


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    output = tmp_path_factory.mktemp("fold") / "out"
    return output, fold_job(net(), tiny_data(), keep=0.5, output=output, progress=False)


def test_a_fold_counts_and_times_one_sample_of_the_smallest_batch(folded):
    _, result = folded
    assert result.max_rel_error < 1e-9
    assert result.stages[0].macs == 8 * 8 * (8 * 9 + 6 * 8 * 9) + 6 * 3


def test_its_folder_is_verified_at_sizes_that_it_takes(folded, capsys):
    code, out, err = run(capsys, f"verify {folded[0]}")
    assert (code, "FAILS" in out) == (0, False), out + err


def test_a_batch_that_it_does_not_take_is_left_out_of_the_times(folded, monkeypatch):
    monkeypatch.setitem(bench.__globals__, "milliseconds", partial(latency, seconds=1e-3))
    found = bench(folded[0], [1, 3])
    assert {each.batch for each in found.timings} == {3}
    assert "left out: a batch of 1; the network takes 2 or more, since captured where" in str(found)
    with pytest.raises(OptionError, match=r"^a batch of 1; the network takes 2 or more, since .*[^.]\.$"):
        bench(folded[0], [1])


def test_its_narrow_network_is_proved():
    assert prove(net(), IMAGES).passed
