"""The main job in stages: the last network is the trim of the first, and a run that breaks off goes on."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.jobs.inputs import Tiny, tiny_data
from torch import nn

import fxprune
from fxprune.errors import OptionError
from fxprune.passes.job.stages import widths_of_stages
from fxprune.passes.job.training import Trainer
from fxprune.passes.options.job import Job
from fxprune.passes.options.target import Target
from fxprune.passes.report.metrics import read_metrics
from fxprune.passes.store import load_weights, read_tensors

QUICK = {"epochs": 1, "csgd_epochs": 1, "progress": False, "deviation": 1e-4, "checkpoint_every": 1}


def coupling_of(model):
    return fxprune.couple(model, torch.empty(2, 1, 8, 8, device="meta"))


def stages_of(job, model):
    return widths_of_stages(job.only_of(Target), job.stages, coupling_of(model))


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({"stages": [0.75, 0.5]}, [(6, 5), (4, 3)]),
        ({"stages": [0.9, 0.87, 0.5]}, [(7, 5), (4, 3)]),
        ({"stages": "auto"}, [(6, 5), (5, 4), (4, 3)]),
        ({"stages": "auto", "keep": 0.25}, [(5, 4), (3, 2), (2, 2)]),
        ({"stages": [0.75, 0.5], "freeze": ["second"]}, [(6, 6), (4, 6)]),
        ({"stages": "auto", "macs": 0.3}, None),
        ({"stages": "auto", "params": 0.3}, None),
    ],
)
def test_widths_of_the_stages(options, widths):
    model = Tiny()
    stages = stages_of(Job(model=model, data=tiny_data(), **options), model)
    if widths is not None:
        assert [tuple(stage.values()) for stage in stages] == widths
    else:  # the last stage is what the same budget gives at once
        budget = {name: value for name, value in options.items() if name != "stages"}
        plan = fxprune.plan(coupling_of(model), **budget, method="even")
        assert stages[-1] == {name: after for name, (_, after) in plan.widths.items()}
        assert len(stages) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stages": [0.5, 0.75]}, "`stages` must be shares from 1 to 0 that fall, or `auto`"),
        ({"stages": []}, "`stages` must be"),
        ({"stages": "often"}, "`stages` must be"),
        ({"stages": [0.5], "keep": 0.5}, "`stages` and `keep` exclude each other"),
        ({"stages": [0.5], "macs": 0.5}, "`stages` and `macs` exclude each other"),
        ({"stages": "auto", "widths": {"a": 1}}, "`stages` and `widths` exclude each other"),
        ({"stages": "auto", "plan_file": "p"}, "`stages` and `plan_file` exclude each other"),
    ],
)
def test_wrong_options(options, says):
    with pytest.raises(OptionError, match=says):
        Job(model="resnet20", data="digits", **options)


def test_stages_that_change_nothing_are_refused(tmp_path):
    with pytest.raises(OptionError, match=r"`stages` cannot end at 0\.99: `keep` 0\.99 is out of reach"):
        fxprune.compress(Tiny(), tiny_data(), stages=[0.99], output=tmp_path / "out", **QUICK)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    torch.manual_seed(0)
    model, folder = Tiny(), tmp_path_factory.mktemp("stages") / "out"
    return model, fxprune.compress(model, tiny_data(), stages=[0.75, 0.5], output=folder, **QUICK)


def test_the_job_in_stages(done):
    model, result = done
    assert result.widths == {"first.weight": (8, 4), "second.weight": (6, 3)}
    assert [stage.changed for stage in result.stages[-3:]] == [0, 0, 0]
    assert {"csgd", "csgd2"} <= set(result.seconds)
    narrow = fxprune.load(result.output, model=Tiny())
    assert narrow.first.out_channels == 4
    snapped = Tiny()
    load_weights(snapped, result.output / "snapped.safetensors")
    plan = fxprune.load_plan(result.output / "plan.json", snapped)
    images = torch.randn(5, 1, 8, 8)
    # float32 rounding of three layers
    torch.testing.assert_close(fxprune.narrow(snapped.eval(), plan)(images), narrow(images), rtol=1e-5, atol=1e-6)
    assert json.loads((result.output / "summary.json").read_text())["options"]["stages"] == [0.75, 0.5]
    assert isinstance(model, nn.Module) and model.first.out_channels == 8


def test_every_stage_is_on_record(done):
    _, result = done
    records = read_metrics(result.output)
    assert [(record["phase"], record["epoch"], record["step"]) for record in records] == [
        ("train", 1, 3),
        ("csgd", 0, 3),
        ("csgd", 1, 6),
        ("csgd2", 0, 6),
        ("csgd2", 1, 9),
    ]
    for record in records[1:]:
        if record["epoch"] == 0:
            assert record["deviation_largest"] > 1e-2  # other clusters in each stage
        else:
            assert record["deviation_largest"] < 1e-3


@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_that_broke_off_goes_on(done, tmp_path, monkeypatch, stage):
    model, result = done
    train = Trainer.train_csgd

    def broken(*args, **kwargs):
        reached = train(*args, **kwargs)
        if kwargs["stage"] == stage:
            raise RuntimeError("power failure")
        return reached

    monkeypatch.setattr(Trainer, "train_csgd", broken)
    with pytest.raises(RuntimeError, match="power failure"):
        fxprune.compress(model, tiny_data(), stages=[0.75, 0.5], output=tmp_path / "out", **QUICK)
    monkeypatch.undo()
    again = fxprune.compress(model, tiny_data(), stages=[0.75, 0.5], output=tmp_path / "out", resume="auto", **QUICK)
    for name in ("snapped.safetensors", "weights.safetensors"):
        before, after = read_tensors(result.output / name), read_tensors(again.output / name)
        assert all(torch.equal(before[key], value) for key, value in after.items())
