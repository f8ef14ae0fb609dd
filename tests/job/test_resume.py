"""A job survives anything: killed at any moment and resumed, it ends with the bytes of the undisturbed one."""

from __future__ import annotations

import signal

import pytest
from helpers.jobs.compression import Tiny, broken_off, compress, numbers, run_until, tiny_data
from helpers.processes.fork_server import start
from torch import nn

import fxprune
import fxprune.passes.job.compression
from fxprune.errors import CheckpointError, StoppedError

pytestmark = [pytest.mark.usefixtures("untimed")]
RESULTS = ("wide.safetensors", "snapped.safetensors", "plan.json", "weights.safetensors", "network.json", "narrow.onnx")


TAKE = "fxprune.passes.train.loop:Training.train_step"
# An epoch of the wide network has 6 steps: checkpoints come after 4, 6, 8, 12 and at the end.
MOMENTS = {
    "before the first checkpoint": (TAKE, 3),
    "after a checkpoint in the second epoch": (TAKE, 10),
    "while a checkpoint is written": ("os:replace", 3),
    "while the clusters are found": ("fxprune.passes.planning.plan:weighted_kmeans", 1),
    "at the first step of C-SGD": (TAKE, 13),
    "late in C-SGD": (TAKE, 23),
    "in the snap": ("fxprune.passes.job.trim:snap", 1),
    "in the export": ("fxprune.passes.job.compression:export_onnx", 1),
    "while the results appear": ("fxprune.passes.store.folder:_appear", 6),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    compress(out)
    return out


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_it_ends_with_the_same_bytes(tmp_path, undisturbed, moment):
    out = tmp_path / "out"
    process = start(run_until, tmp_path / "log", *MOMENTS[moment], out)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "summary.json").exists()
    compress(out, resume="auto")
    for name in RESULTS:
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert numbers(out) == numbers(undisturbed)
    assert not (out / "checkpoints").exists()


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(fxprune.passes.job.compression, "trim", broken_off)
        with pytest.raises(StoppedError, match=r"stopped by SIGINT; what was done is in .*checkpoints.*--resume"):
            compress(tmp_path)
    return tmp_path


def other_weights(model):
    nn.init.zeros_(model.head.bias)
    return model


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"csgd_epochs": 3}, "`csgd_epochs` is 2 there and 3 here"),
        ({"keep": 0.25}, "`keep` is None there and 0.25 here"),
        ({"scheduler": "poly"}, "`scheduler` is cosine there and poly here"),
        ({"workers": 2}, "`workers` is 0 there and 2 here"),
        ({"seed": 1}, "`seed` is 0 there and 1 here"),
        ({"hflip": 0.0}, "`hflip` is None there and 0.0 here"),
        ({"model": other_weights(Tiny())}, "`first weights` is [0-9a-f]+ there and [0-9a-f]+ here"),
        ({"data": tiny_data(40)}, "`training data` is 6 batches, .* there and 5 batches, .* here"),
    ],
)
def test_another_job_is_refused_by_the_name_of_its_option(unfinished, options, says):
    with pytest.raises(CheckpointError, match=f"was written by another job: {says}"):
        compress(unfinished, resume="auto", **options)
    assert (unfinished / "checkpoints" / "csgd.pt").exists()


def test_without_resume_the_checkpoints_of_another_run_are_kept_aside_until_the_end(unfinished, monkeypatch):
    monkeypatch.setattr(fxprune.passes.job.compression, "trim", broken_off)
    with pytest.raises(StoppedError):
        compress(unfinished, keep=0.25)
    assert (unfinished / "checkpoints.before" / "csgd.pt").exists()
    assert (unfinished / "checkpoints" / "csgd.pt").exists()


def test_what_does_not_decide_the_weights_may_differ(unfinished):
    compress(unfinished, resume="auto", checkpoint_every=0, opset=19)
    assert not list(unfinished.glob("checkpoints*"))


def test_resume_without_a_checkpoint_begins(tmp_path, undisturbed):
    compress(tmp_path, resume="auto")
    assert (tmp_path / "narrow.onnx").read_bytes() == (undisturbed / "narrow.onnx").read_bytes()


def test_the_records_hold_the_law_of_the_deviation(undisturbed):
    records = [record for record in numbers(undisturbed) if record["phase"] == "csgd"]
    assert [(record["epoch"], record["step"]) for record in records] == [(0, 12), (1, 18), (2, 24)]
    for record in records:
        # the unit, the size of the weights, changes a little in 12 steps of training
        assert record["deviation_largest"] == pytest.approx(record["deviation_predicted"], rel=0.5)
    assert records[-1]["deviation_predicted"] == pytest.approx(1e-3, rel=1e-6)  # the root of a product of 12 factors
