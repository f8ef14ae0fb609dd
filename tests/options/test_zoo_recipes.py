"""Our recipes are valid jobs, and each leads to the cut in MACs that was published for it, without data or weights."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

import fxprune
from fxprune.costs import cost
from fxprune.models_zoo.registry import create_model, model_input_size
from fxprune.passes.options.job import Job
from fxprune.passes.options.recipe import find_recipe, read_notes, read_recipe

RECIPES = sorted(file.stem for file in (Path(__file__).parents[2] / "models_zoo" / "recipes").glob("*.yaml"))
PUBLISHED = {
    "resnet20_cifar10": (60.7, None),
    "resnet56_cifar10": (60.85, None),
    "resnet110_cifar10": (60.9, None),
    "resnet164_cifar10": (60.9, None),
    "resnet50_imagenet_70": (35.7, 75.94),
    "resnet50_imagenet_60": (45.9, 75.80),
    "resnet50_imagenet_50": (55.4, 75.29),
    "vgg16_cifar10": (None, None),
    "densenet40_cifar10": (None, None),
}


GROUPS = {"resnet20": 12, "resnet56": 30, "resnet110": 57, "resnet164": 84}  # one in a block, one for a stage


@functools.cache
def coupling_of(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=1000 if name.startswith("torchvision/") else 10)
    return model, fxprune.couple(model, torch.empty(1, *model_input_size(name), device="meta"))


def test_every_experiment_has_its_recipe():
    assert set(RECIPES) == set(PUBLISHED)


@pytest.mark.parametrize("recipe", RECIPES)
def test_figures_beside_the_recipe(recipe):
    notes = read_notes(recipe)
    assert (notes["published"]["macs-cut"], notes["published"]["top1"]) == PUBLISHED[recipe]
    assert "2107.14444" in notes["published"]["source"]
    assert notes["description"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_plan_makes_the_published_cut(recipe):
    job = Job(**read_recipe(recipe))
    assert job.coupled and job.optimizer == "sgd" and job.momentum == 0.9 and job.weight_decay == 1e-4
    _model, coupling = coupling_of(job.model)
    assert len(coupling.groups) == GROUPS.get(job.model, len(coupling.groups)) and coupling.share_prunable > 0.99
    goal = {"keep": job.stages[-1]} if job.stages else {"keep": job.keep}
    plan = fxprune.plan(coupling, **goal, internal_only=job.internal_only, method="even")
    cut = 100 * (1 - cost(plan).macs / cost(coupling).macs)
    published, _ = PUBLISHED[recipe]
    if published is not None:
        assert cut == pytest.approx(published, abs=0.2)  # points; the paper rounds to one decimal or two
    else:
        assert 50 < cut < 65  # 5/8 of both widths of a layer leave 39 %


def test_the_inner_layers_of_resnet50_are_as_wide_as_the_cut_demands():
    _model, coupling = coupling_of("torchvision/resnet50")
    assert cost(coupling).macs == pytest.approx(4.09e9, rel=1e-3)  # three digits were published
    for share, widths in {70: {45, 90, 180, 359}, 60: {39, 77, 154, 308}, 50: {32, 64, 128, 256}}.items():
        keep = read_recipe(f"resnet50_imagenet_{share}")["keep"]
        plan = fxprune.plan(coupling, keep, internal_only=True, method="even")
        assert {after for before, after in plan.widths.values() if after < before} == widths
        # with the paper's widths the figures are met to the digit that was published
        cut = 100 * (1 - cost(plan).macs / cost(coupling).macs)
        assert round(cut, 1) == PUBLISHED[f"resnet50_imagenet_{share}"][0]


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.endswith("_cifar10")])
def test_recipes_say_where_their_crops_differ_from_the_paper(recipe):
    text = find_recipe(recipe).read_text()
    assert read_recipe(recipe)["data"] == "torch/cifar10"
    assert "# the paper pads by 4 pixels and crops 32; timm cannot" in text
