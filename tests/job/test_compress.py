"""The main job on a network and data of one's own, and what it prepares first."""

from __future__ import annotations

import inspect

import pytest
import torch
from helpers.jobs.inputs import Tiny, planned, tiny_data

import fxprune
from fxprune.errors import OptionError, PlanError
from fxprune.passes.job.clock import Clock
from fxprune.passes.job.prepare import prepare
from fxprune.passes.options.job import DEVIATION, Job
from fxprune.passes.report.results import read_result


def test_too_few_steps_for_the_deviation_are_refused_before_training():
    job = Job(model=Tiny(), data=tiny_data(batches=1), csgd_epochs=1, csgd_lr=1e-3, deviation=1e-30)
    with pytest.raises(OptionError, match="Train longer"):
        prepare(job.replace(csgd_epochs=1), torch.device("cpu"))


def test_a_network_given_as_such_is_copied():
    model = Tiny()
    network, _ = prepare(Job(model=model, data=tiny_data()), torch.device("cpu"))
    assert network.model is not model
    assert network.spec is None
    assert tuple(network.example.shape) == (2, 1, 8, 8)


def test_a_clock_times_phases_in_order(capsys):
    clock = Clock()
    with clock("one", "first"), clock("two"):
        pass
    assert list(clock.seconds) == ["two", "one"]
    assert capsys.readouterr().err.splitlines() == ["one      first", "two"]


def test_the_job_on_ones_own_network_and_data(tmp_path):
    model = Tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = fxprune.compress(model, tiny_data(), output=tmp_path / "out", epochs=1, csgd_epochs=1, progress=False)
    assert [stage.changed for stage in done.stages[-3:]] == [0, 0, 0]
    assert done.widths == {"first.weight": (8, 4), "second.weight": (6, 3)}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert str(read_result(tmp_path / "out")) == str(done)
    net = fxprune.load(tmp_path / "out", model=Tiny())
    assert net.first.out_channels == 4


def test_two_loaders_are_data(tmp_path):
    torch.manual_seed(0)
    model, data = Tiny(), tiny_data()
    options = {"epochs": 1, "csgd_epochs": 1, "progress": False, "deviation": 1e-3}
    for name, given in (("data", data), ("pair", (data.train, data.test))):
        fxprune.compress(model, given, output=tmp_path / name, **options)
    for file in ("snapped.safetensors", "weights.safetensors"):
        assert (tmp_path / "data" / file).read_bytes() == (tmp_path / "pair" / file).read_bytes()
    assert "# data: was given in Python, as tuple" in (tmp_path / "pair" / "recipe.yaml").read_text()


def test_editors_and_type_checkers_see_the_options():
    signature = inspect.signature(fxprune.compress)
    parameters = signature.parameters
    assert (signature.return_annotation, list(parameters)[:2]) == ("Result", ["model", "data"])
    assert parameters == inspect.signature(Job).parameters
    assert (parameters["keep"].annotation, parameters["round_to"].annotation) == (float | None, int)
    with pytest.raises(TypeError, match="keeep"):
        fxprune.compress(Tiny(), tiny_data(), keeep=0.5)


def test_a_plan_file_takes_the_place_of_a_target(tmp_path):
    model, plan = planned()
    plan.save(tmp_path / "plan.json")
    job = Job(model=model, data=tiny_data(), plan_file=tmp_path / "plan.json")
    assert job.deviation is None
    assert DEVIATION == 1e-6
    with pytest.raises(PlanError, match="another network"):
        fxprune.compress("resnet20", tiny_data(), plan_file=tmp_path / "plan.json", output=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
