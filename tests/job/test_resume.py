"""A job survives anything: killed at any moment and resumed, it ends with the bytes of the undisturbed one."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fxprune
import fxprune.passes.compress
from fxprune.errors import CheckpointError, StoppedError
from fxprune.models_zoo.data import Data
from fxprune.models_zoo.tensor_loader import TensorLoader
from fxprune.passes import compress_measure

pytestmark = pytest.mark.xdist_group("resume")  # the fixtures are dear
RESULTS = ("wide.safetensors", "snapped.safetensors", "plan.json", "weights.safetensors", "network.json", "narrow.onnx")


class Tiny(nn.Module):
    """Two convolutions with dropout between them, so that every step draws."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.second(self.drop(self.norm(self.first(x)).relu())).relu()
        return self.head(x.mean((2, 3)))


def tiny_data(count=48):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 3
    train = TensorLoader(images, labels, 8, shuffle=True, shift=1)
    return Data("noise", 3, 1, 8, train, TensorLoader(images, labels, 16), (0.0,), (1.0,))


def compress(output, **options):
    """Six steps an epoch, two epochs each, everything on that draws or remembers."""
    compress_measure.milliseconds = lambda *_: 1.0  # timing is most of so small a job
    torch.manual_seed(0)
    chosen = {
        "epochs": 2,
        "csgd_epochs": 2,
        "mixup": 0.2,
        "ema": 0.9,
        "clip_grad": 1.0,
        "optimizer": "adamw",
        "lr": 0.005,  # at ten times the rate the network dies, and nothing that is drawn changes anything
        "csgd_lr": 0.005,
        "teacher": "wide",
        "deviation": 1e-3,
        "checkpoint_every": 4,
        "progress": False,
        "device": "cpu",
    }
    given = {"model": Tiny(), "data": tiny_data(), "output": output}
    return fxprune.compress(**{**given, **chosen, **options})


def dies(where, count, how="SIGKILL"):
    """Send this process a signal when a function of ours is called for the count-th time."""
    name, attribute = where.split(":")
    *path, last = attribute.split(".")
    owner = functools.reduce(getattr, path, __import__(name, fromlist=["_"]))
    call, calls = getattr(owner, last), []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), getattr(signal, how))
        return call(*args, **kwargs)

    setattr(owner, last, dying)


TAKE = "fxprune.passes.training:Training._take"
# An epoch of the wide network has 6 steps: checkpoints come after 4, 6, 8, 12 and at the end.
MOMENTS = {
    "before the first checkpoint": (TAKE, 3),
    "after a checkpoint in the second epoch": (TAKE, 10),
    "while a checkpoint is written": ("os:replace", 3),
    "while the clusters are found": ("fxprune.passes.cluster:kmeans", 1),
    "at the first step of C-SGD": (TAKE, 13),
    "late in C-SGD": (TAKE, 23),
    "in the snap": ("fxprune.passes.compress_trim:snap", 1),
    "in the export": ("fxprune.passes.compress:export_onnx", 1),
    "while the results appear": ("fxprune.passes.folder:_appear", 6),
}


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    monkeypatch.setattr(compress_measure, "milliseconds", compress_measure.milliseconds)  # puts it back


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    compress(out)
    return out


@pytest.fixture(scope="module")
def grave():
    """A process that forks one which runs the job until it dies, as often as it is asked to, and tells how it ended."""
    code = "import test_resume; test_resume.serve()"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.stdin.close()


def start(grave, *arguments):
    print(*arguments, file=grave.stdin, flush=True)
    return int(grave.stdout.readline())


def serve():
    import onnx  # noqa: F401  what every run needs is loaded once
    import timm.data
    import timm.optim  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            output, where, count = line.split()
            try:
                dies(where, int(count))
                compress(output)
            finally:
                os._exit(0)  # it should not have come so far
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def numbers(folder):
    """Every record of a run, without those that tell the time."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "images_per_second"} for line in lines]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_it_ends_with_the_same_bytes(tmp_path, undisturbed, grave, moment):
    out = tmp_path / "out"
    assert start(grave, out, *MOMENTS[moment]) == -signal.SIGKILL
    assert not (out / "summary.json").exists()
    compress(out, resume="auto")
    for name in RESULTS:
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert numbers(out) == numbers(undisturbed)
    assert not (out / "checkpoints").exists()


def broken_off(*_):
    raise KeyboardInterrupt


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(fxprune.passes.compress, "trim", broken_off)
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
    monkeypatch.setattr(fxprune.passes.compress, "trim", broken_off)
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
