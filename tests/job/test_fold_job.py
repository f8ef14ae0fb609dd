"""Folding as a job: images with labels, without labels, and none; and what it refuses."""

from __future__ import annotations

import functools
import math
import re

import numpy as np
import pytest
import torch
from helpers.jobs.inputs import Tiny, tiny_data
from PIL import Image
from torch import nn

import fxprune
from fxprune.cli import main
from fxprune.errors import CheckpointError, DataError, ModelError, OptionError
from fxprune.models_zoo import registry
from fxprune.models_zoo.build import build
from fxprune.models_zoo.networks import CifarResNet
from fxprune.passes.job.folding import fold_job
from fxprune.passes.job.samples import fold_network
from fxprune.passes.options.fold import FoldJob
from fxprune.passes.options.recipe import read_recipe
from fxprune.passes.report.metrics import read_metrics
from fxprune.passes.report.results import read_result
from fxprune.passes.report.verify_folder import verify_folder
from fxprune.passes.store import load_weights, save_weights

pytestmark = pytest.mark.usefixtures("untimed")

QUICK = {"keep": 0.5, "progress": False}
SIZES = {"image_size": 8, "in_chans": 1}


def tiny(seed=1):
    torch.manual_seed(seed)
    return Tiny().eval()


def photos(folder, count=12, size=(11, 9)):
    """Pictures in two folders, one inside the other."""
    (folder / "a" / "b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "a" / ("b" if number % 2 else "") / f"{number}.png")
    (folder / "a" / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """The results of a fold of the tiny network, with test images."""
    output = tmp_path_factory.mktemp("fold") / "out"
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = fold_job(model, tiny_data(batches=8), output=output, **QUICK)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return result


def test_a_fold_with_data_measures_accuracy(folded):
    assert [row.name for row in folded.stages] == [
        "wide",
        "merged, not repaired",
        "narrow, repaired by readers",
        "narrow, in onnxruntime",
    ]
    assert folded.widths == {"first.weight": (8, 4), "second.weight": (6, 3)}
    assert (folded.folded.judge, folded.folded.images, folded.stages[0].count) == ("labels", 64, 64)
    assert folded.folded.errors["readers"] < folded.folded.errors["none"]
    assert folded.snap_changed == folded.stages[-1].changed
    assert "accuracy" in str(folded).splitlines()[0]


def test_its_folder_is_that_of_compress(folded):
    assert str(read_result(folded.output)) == str(folded)
    narrow = fxprune.load(folded.output, model=Tiny())
    assert narrow.meta["preprocessing"].input_size == (1, 8, 8)
    wide, snapped = Tiny().eval(), Tiny().eval()
    load_weights(wide, folded.output / "wide.safetensors")
    load_weights(snapped, folded.output / "snapped.safetensors")
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(narrow(images), snapped(images), rtol=1e-5, atol=1e-6)
    assert torch.equal(wide(images), tiny()(images))
    records = read_metrics(folded.output)
    assert [record["layer"] for record in records] == ["first.weight", "second.weight", "head.weight"]
    assert read_recipe(folded.output / "recipe.yaml", FoldJob)["keep"] == 0.5


@pytest.mark.parametrize(
    ("options", "kept"), [({}, "readers"), ({"repair": "none"}, "none"), ({"repair": "variance"}, "variance")]
)
def test_without_images_nothing_but_the_cost_is_measured(tmp_path, options, kept):
    result = fold_job(tiny(), output=tmp_path / "out", **QUICK, **SIZES, **options)
    assert result.folded.repair == kept
    assert {row.count for row in result.stages} == {0}
    assert "without images, a repair knows only weights and noise" in str(result)
    assert str(read_result(tmp_path / "out")) == str(result)


def test_statistics_and_rows_as_asked(tmp_path):
    result = fold_job(
        tiny(), tiny_data(batches=8), repair="statistics", cluster="rows", output=tmp_path / "out", **QUICK
    )
    assert result.folded.errors.keys() == {"none", "statistics"}
    assert result.options["cluster"] == "rows"


class Plain(nn.Module):
    """No batch normalisation."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.first(x).relu().mean((2, 3)))


@pytest.mark.parametrize("repair", ["statistics", "variance"])
def test_statistics_of_a_network_without_any_are_said_to_be_none(tmp_path, repair):
    result = fold_job(Plain().eval(), tiny_data(), repair=repair, output=tmp_path / "out", **QUICK)
    assert result.folded.repair == "none"
    assert f"no repair ({repair} had nothing to repair)" in str(result)


@pytest.mark.parametrize("count", [2, 12])
def test_images_without_labels_measure_agreement(tmp_path, count):
    inputs = [str(photos(tmp_path / "photos", count))]
    result = fold_job(tiny(), inputs=inputs, output=tmp_path / "out", **QUICK, **SIZES)
    assert (result.folded.judge, result.folded.images) == ("wide", count)
    assert result.stages[0].accuracy == 1.0
    assert result.stages[0].count == max(1, count // 4)
    assert all(row.correct == row.count - row.changed for row in result.stages)
    assert "agreement" in str(result).splitlines()[0]
    held = "1 image" if count == 2 else "3 images"
    assert f"on {held} held back" in " ".join(str(result).split())


def test_one_image_cannot_be_judged_by_another(tmp_path):
    inputs = [str(photos(tmp_path / "photos", 1))]
    with pytest.raises(DataError, match="two inputs or more"):
        fold_job(tiny(), inputs=inputs, output=tmp_path / "out", **QUICK, **SIZES)
    assert not (tmp_path / "out" / "summary.json").exists()


def test_few_images_are_said_to_be_few(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 3)).eval()
    result = fold_job(model, tiny_data(), images=8, output=tmp_path / "out", **QUICK)
    assert (result.folded.few, result.folded.needed) == (2, math.ceil(64 / 6 * 8))
    assert "few images: a penalty decides the fit of 2 layers, with fewer positions in 8 images" in str(result)
    assert "86 images are enough for all" in str(result)


def test_the_same_job_gives_the_same_network(tmp_path, folded):
    fold_job(tiny(), tiny_data(batches=8), output=tmp_path / "out", **QUICK)
    for file in ("plan.json", "weights.safetensors", "snapped.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (folded.output / file).read_bytes()


def test_a_plan_file_takes_the_place_of_a_target(tmp_path, folded):
    result = fold_job(
        tiny(), tiny_data(), plan_file=folded.output / "plan.json", output=tmp_path / "out", progress=False
    )
    assert result.widths == folded.widths


def test_a_network_by_name_is_built_as_its_checkpoint_needs(tmp_path, capsys, monkeypatch):
    # One block in each stage: the depth of a resnet20 shows nothing more.
    monkeypatch.setattr(registry, "OWN", {"resnet8": functools.partial(CifarResNet, 1)})
    network = build("resnet8", num_classes=5, in_chans=1, image_size=8)
    save_weights(network.model, tmp_path / "wide.safetensors")
    words = ["--checkpoint", str(tmp_path / "wide.safetensors"), "--inputs", str(photos(tmp_path / "photos"))]
    words += [
        "--num-classes",
        "5",
        "--in-chans",
        "1",
        "--image-size",
        "8",
        "--output",
        str(tmp_path / "out"),
        "--quiet",
    ]
    assert main(["fold", "resnet8", *words, "--only", "stage1*", "--keep", "0.5", "--repair", "none"]) == 0
    assert "narrow, not repaired" in capsys.readouterr().out
    assert verify_folder(tmp_path / "out").passed
    # The folder says how its images were prepared, and which classes there are.
    job = FoldJob("resnet8", checkpoint=tmp_path / "out" / "wide.safetensors", num_classes=5)
    network, _, preprocessing = fold_network(job, torch.device("cpu"))
    assert preprocessing.input_size == tuple(network.example.shape[1:]) == (1, 8, 8)
    assert preprocessing.mean == (0.5,)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ("missing", "there is no file or folder"),
        ("empty", "there is no image in"),
        ("photos/a/notes.txt", "cannot read the image"),
    ],
)
def test_inputs_that_are_no_images_are_named(tmp_path, inputs, says):
    photos(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=says):
        fold_job(tiny(), inputs=[str(tmp_path / inputs)], output=tmp_path / "out", **QUICK, **SIZES)
    assert not (tmp_path / "out").exists()


def test_what_is_not_finite_is_refused(tmp_path):
    model = tiny()
    with torch.no_grad():
        model.first.weight[0] = 3e38
    with pytest.raises(ModelError, match="NaN or an infinity"):
        fold_job(model, tiny_data(), output=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_images_of_another_shape_are_refused(tmp_path):
    images = torch.randn(8, 1, 8, 7), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(DataError, match="must be channels x height x width, and square"):
        fold_job(tiny(), ([images], [images]), output=tmp_path / "out", **QUICK)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    save_weights(Plain(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError):
        fold_job(tiny(), tiny_data(), checkpoint=tmp_path / "w.safetensors", output=tmp_path / "out", **QUICK)


def test_published_weights_for_other_classes_are_refused(tmp_path):
    with pytest.raises(OptionError, match=re.escape("`resnet18` tell 1000 classes apart, not 3")):
        fold_job("resnet18", tiny_data(), pretrained=True, output=tmp_path / "out", **QUICK)
