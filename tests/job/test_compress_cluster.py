"""Clusters on images: from unlabelled training images, the same each time, in one stage, in several, and widened."""

from __future__ import annotations

import pytest
import torch
from helpers.command_line import enter, run
from helpers.jobs.inputs import Tiny, tiny_data

import fxprune
from fxprune.errors import OptionError
from fxprune.passes.job import compression, prepare, stages
from fxprune.passes.options.target import Target
from fxprune.plan_file import read_plan

pytestmark = pytest.mark.usefixtures("untimed")

QUICK = {"epochs": 1, "csgd_epochs": 1, "progress": False, "deviation": 1e-3, "checkpoint_every": 1}


@pytest.fixture
def asked(monkeypatch):
    """What plans were asked to compare, and on how many images."""
    seen = []

    def images_for(target, data):
        images = prepare.images_for(target, data)
        seen.append((target.clusters_by, None if images is None else sum(map(len, images))))
        return images

    monkeypatch.setattr(compression, "images_for", images_for)
    monkeypatch.setattr(stages, "images_for", images_for)
    return seen


def compress(output, **options):
    torch.manual_seed(0)
    return fxprune.compress(Tiny(), tiny_data(), output=output, **QUICK, **options)


def test_rows_need_no_images():
    assert prepare.images_for(Target(), tiny_data()) is None


def test_clusters_on_outputs_are_found_once_and_kept(tmp_path, monkeypatch, asked):
    whole = compress(tmp_path / "whole", cluster="outputs")
    assert asked == [("outputs", 24)]
    assert read_plan(tmp_path / "whole" / "plan.json")["method"] == "kmeans, on outputs, keep 0.5"
    assert [row.changed for row in whole.stages[-3:]] == [0, 0, 0]

    def broken(*_):
        raise RuntimeError("power failure")

    with monkeypatch.context() as patch:
        patch.setattr(compression, "trim", broken)
        with pytest.raises(RuntimeError, match="power failure"):
            compress(tmp_path / "out", cluster="outputs")
    again = compress(tmp_path / "out", cluster="outputs", resume="auto")
    assert len(asked) == 2  # the resumed run takes the plan that is stored
    assert again.widths == whole.widths
    for file in ("plan.json", "weights.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_each_stage_compares_the_network_of_the_stage_before(tmp_path, asked):
    result = compress(tmp_path / "out", stages=[0.75, 0.5])
    assert asked == [("activations", 24)] * 2
    assert result.widths == {"first.weight": (8, 4), "second.weight": (6, 3)}


def test_a_plan_is_made_on_images_of_its_data(tmp_path, monkeypatch, capsys):
    enter(tmp_path, monkeypatch)
    line = "plan small --data digits --image-size 8 --cluster outputs --keep 0.5 -o {}.json"
    assert [run(capsys, line.format(name))[0] for name in ("a", "b")] == [0, 0]
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert "on outputs" in (tmp_path / "a.json").read_text()


def test_a_resumed_job_compares_the_same(tmp_path):
    with pytest.raises(OptionError, match="compares nothing"):
        compress(tmp_path / "out", cluster="outputs", method="even")
    assert not (tmp_path / "out").exists()
