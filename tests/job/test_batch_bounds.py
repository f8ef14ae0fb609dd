"""A network that takes two samples or more is folded, verified and timed at sizes that it takes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers.command_line import run
from helpers.jobs.inputs import Tiny, tiny_data

import fxprune
from fxprune.arguments.batches import BatchRange
from fxprune.costs import latency
from fxprune.errors import DataError, OptionError
from fxprune.models_zoo import Network
from fxprune.passes.job import fold_job
from fxprune.passes.job.samples import _labelled
from fxprune.passes.report import bench
from fxprune.passes.verify import prove

IMAGES = torch.empty(2, 1, 8, 8, device="meta")


class Several(Tiny):
    """Takes another branch for one sample than for several."""

    def forward(self, x):
        return super().forward(x * 2 if x.shape[0] > 1 else x)


class Squeezed(Tiny):
    """Takes one sample for several of another shape, which only channels that are narrower show."""

    def forward(self, x):
        x = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(x.mean((2, 3)).squeeze().softmax(-1) * x.mean((2, 3)).squeeze().softmax(0))


def net():
    torch.manual_seed(1)
    return Several().eval()


def example():
    return net(), IMAGES


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    output = tmp_path_factory.mktemp("fold") / "out"
    return output, fold_job(net(), tiny_data(), keep=0.5, output=output, progress=False)


def test_a_fold_counts_and_times_one_sample_of_the_smallest_batch(folded):
    _, result = folded
    assert result.max_rel_error < 1e-9
    assert result.stages[0].macs == 8 * 8 * (8 * 9 + 6 * 8 * 9) + 6 * 3


@pytest.mark.parametrize("job", [fxprune.compress, fold_job])
def test_a_rest_of_one_test_image_is_refused_before_any_work(job, tmp_path):
    data = tiny_data()
    data = replace(data, test=replace(data.test, batch_size=len(data.test.images) - 1))
    with pytest.raises(
        DataError, match=r"^test batch 2 of 2 has 1 sample, and .* a batch of 2 or more, since captured"
    ):
        job(net(), data, keep=0.5, output=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_batch_that_only_the_narrow_network_refuses_is_said_before_training(tmp_path, capsys):
    torch.manual_seed(1)
    wide, data = Squeezed().eval(), tiny_data()
    few = replace(data, test=replace(data.test, batch_size=len(data.test.images) - 1))
    given = {"keep": 0.5, "epochs": 1, "csgd_epochs": 2, "csgd_lr": 1e-3}
    with pytest.raises(
        DataError, match=r"^test batch 2 of 2 has 1 sample, and .* a batch of 2 or more, since captured"
    ):
        fxprune.compress(wide, few, output=tmp_path / "few", **given)
    assert "batch    2 or more in the narrow network, since captured" in capsys.readouterr().err
    result = fold_job(wide, data, keep=0.5, output=tmp_path / "out", progress=False)
    assert result.max_rel_error < 1e-9


@pytest.mark.parametrize(("count", "sizes"), [(33, [31, 2]), (64, [32, 32]), (1, [1])])
def test_images_without_labels_are_divided_so_that_no_rest_is_too_small(count, sizes):
    network = Network(net(), None, IMAGES)
    loader = _labelled(network, torch.zeros(count, 1, 8, 8), BatchRange(2, None, "why"))
    assert [len(images) for images, _ in loader] == sizes


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


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_the_json_of_an_export_has_the_bound(folded, tmp_path, capsys, kind):
    code, out, err = run(capsys, f"export {folded[0]} --format {kind} --output {tmp_path / 'x'} --json")
    assert code == 0, err
    bound = json.loads(out)["batch"]
    assert (bound["least"], bound["most"], bound["why"][:14]) == (2, None, "captured where")


def test_it_is_inspected_on_its_own_example(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mine_bound", SimpleNamespace(example=example))
    code, out, err = run(capsys, "inspect mine_bound:example --json")
    found = json.loads(out)
    assert (code, found["batch"][:10], found["macs"]) == (0, "2 or more,", 8 * 8 * (8 * 9 + 6 * 8 * 9) + 6 * 3), err


def test_it_is_timed_at_the_fewest_samples_that_it_takes():
    coupling = fxprune.couple(net(), IMAGES)
    assert fxprune.latency_table(coupling, 1.0, runtime="eager").batch == 2
    with pytest.raises(OptionError, match=r"the batch of the network is 2 or more, since .*; not 1"):
        fxprune.latency_table(coupling, 1.0, runtime="eager", batch=1)


def test_its_narrow_network_is_proved():
    assert prove(net(), IMAGES).passed
