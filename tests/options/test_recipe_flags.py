"""Flags override a recipe, and what the command is given is what the job gets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import fxprune
from fxprune.cli import main
from fxprune.passes.job.prepare import prepare
from fxprune.passes.options.job import Job
from fxprune.passes.options.recipe import override, read_recipe, write_recipe

DONE = SimpleNamespace(text=lambda columns: "done")


def run(monkeypatch, line):
    """The options with which the command would run."""
    seen = {}
    monkeypatch.setattr(fxprune, "compress", lambda **options: seen.update(options) or DONE)
    assert main(["compress", *line.split()]) == 0
    return seen


@pytest.mark.parametrize(
    ("ours", "given", "expected"),
    [
        ({"lr": 1, "keep": 0.5}, {}, {"lr": 1, "keep": 0.5}),
        ({"lr": 1, "keep": 0.5}, {"lr": 2}, {"lr": 2, "keep": 0.5}),
        ({"lr": 1, "keep": 0.5, "macs": None}, {"macs": 0.4}, {"lr": 1, "macs": 0.4}),
        ({"strength": 1, "keep": 0.5}, {"deviation": 2, "widths": {}}, {"deviation": 2, "widths": {}}),
        ({"stages": [0.8, 0.5]}, {"keep": 0.5}, {"keep": 0.5}),
        ({"keep": 0.5}, {"stages": [0.8, 0.5]}, {"stages": [0.8, 0.5]}),
        ({"keep": 0.5}, {"stages": "auto"}, {"keep": 0.5, "stages": "auto"}),
        ({"latency": 0.5, "runtime": "eager", "batch": 8}, {"macs": 0.4}, {"macs": 0.4}),
        ({"latency": 0.5, "runtime": "eager"}, {"latency": 0.4}, {"latency": 0.4, "runtime": "eager"}),
        ({"stages": "auto", "keep": 0.5}, {"macs": 0.4}, {"stages": "auto", "macs": 0.4}),
        ({"stages": "auto", "keep": 0.5}, {"stages": [0.5]}, {"stages": [0.5]}),
        ({"stages": "auto", "keep": 0.5}, {"widths": {"a": 1}}, {"widths": {"a": 1}}),
        ({"stages": [0.5], "freeze": ["a"], "pretrained": True}, {"widen": 2.0}, {"widen": 2.0}),
        ({"widen": 2.0}, {"round_to": 8, "stages": [0.5]}, {"round_to": 8, "stages": [0.5]}),
        ({"internal_only": True, "method": "even", "keep": 0.5}, {"plan_file": "p"}, {"plan_file": "p"}),
        ({"plan_file": "p", "lr": 1}, {"round_to": 8}, {"round_to": 8, "lr": 1}),
        ({"round_to": 8, "only": ["a"]}, {"widths": {"a": 1}}, {"widths": {"a": 1}}),
        ({"stages": "auto", "macs": 0.5}, {"stages": [0.5]}, {"stages": [0.5]}),
        # what is off, or as it is anyway, replaces nothing
        ({"keep": 0.5}, {"stages": None, "plan_file": None}, {"keep": 0.5, "stages": None, "plan_file": None}),
        ({"widen": 2.0}, {"round_to": 1, "pretrained": False}, {"widen": 2.0, "round_to": 1, "pretrained": False}),
        # what needs an option that a flag turned off goes with it
        ({"ema": 0.9, "epochs": 3}, {"epochs": 0}, {"epochs": 0}),
        ({"scheduler": "multistep", "decay_milestones": [3]}, {"scheduler": "step"}, {"scheduler": "step"}),
        ({"clip_grad": 1.0, "clip_mode": "agc"}, {"clip_grad": None}, {"clip_grad": None}),
        ({"teacher": "w", "teacher_model": "m", "teacher_weight": 0.9}, {"teacher": None}, {"teacher": None}),
        ({"mixup": 0.2, "mixup_prob": 0.5}, {"mixup": 0.0}, {"mixup": 0.0}),
        # ... unless it is a flag, too, or did nothing before
        ({"clip_grad": 1.0}, {"clip_grad": None, "clip_mode": "agc"}, {"clip_grad": None, "clip_mode": "agc"}),
        ({"clip_mode": "agc"}, {"lr": 1}, {"clip_mode": "agc", "lr": 1}),
        # what excludes each other stays in the recipe and among the flags, and the job refuses it
        ({"keep": 0.5, "macs": 0.5}, {}, {"keep": 0.5, "macs": 0.5}),
        ({}, {"keep": 0.5, "macs": 0.5}, {"keep": 0.5, "macs": 0.5}),
    ],
)
def test_flags_override_a_recipe(ours, given, expected):
    assert override(ours, given) == expected


def test_the_command_line_reads_a_recipe_and_overrides_it(tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.yaml"
    path.write_text("model: resnet56\ndata: digits\nkeep: 0.625\ncsgd-epochs: 600\npublished: {top1: 93.0}")
    assert run(monkeypatch, f"--recipe {path} --macs 0.4 --csgd-epochs 1") == {
        "model": "resnet56",
        "data": "digits",
        "macs": 0.4,
        "csgd_epochs": 1,
    }
    write_recipe(Job(model="resnet20", data="digits", keep=0.25), tmp_path / "recipe.yaml")
    options = run(monkeypatch, f"--recipe {tmp_path / 'recipe.yaml'} --output out2")
    assert Job(**options) == Job(model="resnet20", data="digits", keep=0.25, output="out2")


@pytest.mark.parametrize("flags", ["--keep 0.5", "--widen 1.5", "--widths conv1.weight=8", "--stages auto --macs 0.4"])
def test_flags_replace_the_stages_of_ours(monkeypatch, capsys, flags):
    options = run(monkeypatch, f"--recipe resnet56_cifar10 --data digits {flags}")
    assert options.get("stages") == ("auto" if "auto" in flags else None)
    assert options["csgd_epochs"] == 600


def test_a_flag_turns_off_what_the_recipe_builds_on(tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.yaml"
    path.write_text("model: resnet20\ndata: digits\nclip-grad: 1.0\nclip-mode: agc\nema: 0.9\nepochs: 5")
    options = run(monkeypatch, f"--recipe {path} --clip-grad none --checkpoint w.safetensors --epochs none")
    assert options["clip_grad"] is None
    assert "clip_mode" not in options and "ema" not in options


AUGMENT = {
    "hflip": 0.0,
    "vflip": 0.25,
    "crop_scale": (0.5, 1.0),
    "crop_ratio": (1.0, 1.0),
    "color_jitter": 0.0,
    "crop_pct": 0.95,
}


class Asked(Exception):
    """Carries the options of the data."""


def asked_for(name, **options):
    raise Asked(options)


def test_flags_of_augmentation_go_into_the_recipe_and_to_the_data(tmp_path, monkeypatch):
    line = "--hflip 0 --vflip 0.25 --crop-scale 0.5 1 --crop-ratio 1 1 --color-jitter 0 --crop-pct 0.95"
    options = run(monkeypatch, f"--model resnet20 --data images {line}")
    assert options == {"model": "resnet20", "data": "images", **AUGMENT}
    write_recipe(Job(**options), tmp_path / "recipe.yaml")
    job = Job(**read_recipe(tmp_path / "recipe.yaml"))
    assert job == Job(**options)
    monkeypatch.setattr("fxprune.models_zoo.data.load_data", asked_for)
    with pytest.raises(Asked) as caught:
        prepare(job, torch.device("cpu"))
    assert AUGMENT.items() <= caught.value.args[0].items()
