"""A job is checked when it is made, fits into JSON, and its target becomes a plan."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from helpers.jobs.inputs import Tiny, tiny_data

import fxprune
from fxprune.errors import OptionError
from fxprune.passes.latency import plan_to
from fxprune.passes.options.job import Job, Target


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output": " ", "keep": 0.5}, "`output` must be the name of a folder, not ' '."),
        ({"keep": 0.0}, "`keep` must be a share above 0 and up to 1, not 0.0"),
        ({"macs": 1.1}, "`macs` must be"),
        ({"params": -0.5}, "`params` must be"),
        ({"keep": 0.5, "params": 0.5}, "`keep` and `params` exclude each other"),
        ({"latency": 1.5}, "`latency` must be a share above 0 and up to 1, not 1.5"),
        ({"macs": 0.5, "latency": 0.5}, "`macs` and `latency` exclude each other"),
        ({"stages": "auto", "latency": 0.5}, "`stages` and `latency` exclude each other"),
        ({"runtime": "eager"}, "`runtime` is for a budget of time: give `latency`"),
        (
            {"latency": 0.5, "runtime": "tensorrt"},
            "`runtime` must be one of onnxruntime, eager, compiled, not tensorrt",
        ),
        ({"latency": 0.5, "batch": 0}, "`batch` must be 1 or more, not 0"),
        ({"latency": 0.5, "target": "htp"}, "`target: htp` cannot be timed here, only onnxruntime, eager, compiled"),
        ({"widths": {"a": 1}, "plan_file": "p"}, "`widths` and `plan_file` exclude each other"),
        ({"plan_file": "p", "internal_only": True}, "`internal_only` and `plan_file` exclude each other"),
        ({"plan_file": "p", "round_to": 8}, "`round_to` and `plan_file` exclude each other"),
        ({"plan_file": "p", "method": "even"}, "`method` and `plan_file` exclude each other"),
        ({"widths": {"a": 1}, "round_to": 8}, "`widths` and `round_to` exclude each other"),
        ({"widths": {"a": 1}, "internal_only": True}, "`internal_only` and `widths` exclude each other"),
        ({"strength": 1.0, "deviation": 1e-6}, "`strength` and `deviation` exclude each other"),
        ({"method": "magic"}, "one of kmeans, even, imbalanced, not magic"),
        ({"round_to": 0}, "`round_to` must be 1 or more, not 0"),
        ({"seed": -1}, "`seed` must be 0 or more"),
        ({"epochs": -1}, "`epochs` must be 0 or more"),
        ({"csgd_epochs": 0}, "`csgd_epochs` must be 1 or more"),
        ({"lr": 0.0}, "`lr` must be above 0"),
        ({"csgd_lr": float("nan")}, "`csgd_lr` must be above 0"),
        ({"deviation": float("inf")}, "`deviation` must be above 0"),
        ({"deviation": 0.0}, "`deviation` must be above 0 and up to 0.005 (C-SGD must end below 0.01"),
        ({"deviation": 0.01}, "or the merge is not free, and weights, in whose size it counts, may shrink), not 0.01"),
        ({"batch_size": 1}, "`batch_size` must be 2 or more"),
        ({"random_erasing": 1.5}, "`random_erasing` must be 0 to 1, not 1.5"),
        ({"hflip": -0.1}, "`hflip` must be 0 to 1, not -0.1"),
        ({"vflip": float("nan")}, "`vflip` must be 0 to 1, not nan"),
        ({"crop_scale": (0.0, 1.0)}, "`crop_scale` must be two shares above 0 and up to 1, the lower one first, not"),
        ({"crop_scale": (0.5, 1.5)}, "`crop_scale` must be two shares"),
        ({"crop_scale": (0.5,)}, "`crop_scale` must be two shares"),
        ({"crop_ratio": (1.5, 0.5)}, "`crop_ratio` must be two ratios above 0, the lower one first, not"),
        ({"crop_ratio": "ab"}, "`crop_ratio` must be two ratios"),
        ({"color_jitter": -1.0}, "`color_jitter` must be 0 or more"),
        ({"crop_pct": 1.1}, "`crop_pct` must be a share above 0 and up to 1, not 1.1"),
        ({"resume": False}, "`resume` must be `auto`, or left out, not False"),
    ],
)
def test_a_job_is_checked_when_it_is_made(options, says):
    with pytest.raises(OptionError, match=re.escape(says)):
        Job(model="resnet20", data="digits", **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ema": 0.9, "epochs": 0}, "`ema` averages the wide network, which is not trained here: give `epochs`"),
        ({"ema": 0.9, "checkpoint": "w"}, "`ema` averages the wide network, which is not trained"),
        ({"decay_milestones": [3]}, "`decay_milestones` is for another scheduler: give `scheduler` as multistep"),
        ({"csgd_decay_milestones": [3], "scheduler": "step"}, "`csgd_decay_milestones` is for another scheduler"),
        ({"clip_mode": "agc"}, "`clip_mode` is how `clip_grad` bounds"),
        ({"teacher_weight": 0.9}, "`teacher_weight` weighs a teacher, and there is none"),
        ({"teacher_temperature": 2.0}, "`teacher_temperature` is that of a teacher"),
        ({"teacher_model": "resnet20", "teacher": "wide"}, "`teacher_model` names the network of a file"),
        ({"mixup_prob": 0.5}, "`mixup_prob` is how often batches are mixed: give `mixup` or `cutmix`"),
        ({"mixup_switch_prob": 0.1, "cutmix": 1.0}, "`mixup_switch_prob` chooses between `mixup` and `cutmix`"),
        ({"min_lr": 0.1}, "`min_lr` 0.1 is above `lr` 0.05: it would climb"),
        ({"min_lr": 0.1, "epochs": 0}, "`min_lr` 0.1 is above `csgd_lr` 0.05: it would climb"),
        ({"scheduler": "multistep", "csgd_decay_milestones": [3]}, "`decay_milestones` must say"),
    ],
)
def test_what_would_do_nothing_is_refused(options, says):
    with pytest.raises(OptionError, match=says):
        Job(model="resnet20", data="digits", **options)


def test_milestones_of_csgd_suffice_where_nothing_else_is_trained():
    job = Job(model="resnet20", data="digits", epochs=0, scheduler="multistep", csgd_decay_milestones=[3])
    assert job.of_csgd().decay_milestones == job.of_wide().decay_milestones == [3]


def test_widths_are_not_rounded_and_a_plan_may_stand_beside_defaults():
    with pytest.raises(OptionError, match="`widths` and `round_to` exclude each other"):
        Target(widths={"a": 1}, round_to=8)
    defaults = {"internal_only": False, "round_to": 1, "method": "kmeans", "only": None}
    assert Job(model="resnet20", data="digits", plan_file="p", **defaults).plan_file == "p"


def test_options_of_a_job_fit_into_json():
    job = Job(model=Tiny(), data=tiny_data(), widths={"a": 3}, output=Path("out"))
    assert json.loads(json.dumps(job.options()))["model"] == "Tiny"
    assert job.options()["widths"] == {"a": 3}


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({}, (4, 3)),
        ({"keep": 0.25}, (2, 2)),
        ({"widths": {"first.weight": 5}}, (5, 6)),
        ({"keep": 0.5, "method": "even"}, (4, 3)),
        ({"keep": 0.6, "round_to": 2}, (4, 4)),
    ],
)
def test_a_target_becomes_a_plan(options, widths):
    model = Tiny()
    coupling = fxprune.couple(model, torch.empty(2, 1, 8, 8, device="meta"))
    plan = plan_to(Target(**options), coupling)
    assert tuple(after for _, after in plan.widths.values()) == widths
