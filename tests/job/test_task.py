"""A task that is not classification: any inputs and outputs, a loss and a metric of one's own."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from dataclasses import replace

import onnx
import pytest
import torch
import torch.nn.functional as F
from helpers.jobs import reports
from helpers.jobs.compression import Tiny, tiny_data
from torch import nn

import fxprune
from fxprune.errors import DataError, ModelError, OptionError, VerifyError
from fxprune.models_zoo import Network
from fxprune.models_zoo.data import Task
from fxprune.models_zoo.data.pairs import data_from_pairs
from fxprune.passes.job import measure, trim
from fxprune.passes.job.prepare import check_outputs
from fxprune.passes.report import read_result, verify_folder
from fxprune.passes.report.charts import WIDTH
from fxprune.passes.report.verdicts import advice_for
from fxprune.passes.report.write import write_report

QUICK = {"epochs": 1, "csgd_epochs": 3, "deviation": 5e-3, "lr": 0.02, "csgd_lr": 0.02, "progress": False}


class Both(nn.Module):
    """A mask and an embedding of an image and a number."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.mask = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.embedding = nn.Linear(8, 4)
        self.never = nn.Linear(3, 2)

    def forward(self, image, scale, labels=None):
        x = self.second(self.norm(self.first(image * scale[:, None, None, None])).relu()).relu()
        return {"mask": self.mask(x), "embedding": self.embedding(x.mean((2, 3)))}


class Loader(list):
    """Batches in memory."""


def batches(count=32, size=8):
    generator = torch.Generator().manual_seed(0)
    images, scales = torch.randn(count, 1, 8, 8, generator=generator), torch.rand(count, generator=generator) + 0.5
    return Loader(
        {"image": images[i], "scale": scales[i], "labels": (images[i, 0] > 0).long(), "number": i}
        for i in torch.arange(count).split(size)
    )


def loss(outputs, targets):
    return F.cross_entropy(outputs["mask"], targets["labels"]) + outputs["embedding"].square().mean()


def pixel_error(outputs, targets):
    return (outputs["mask"].argmax(1) != targets["labels"]).float().mean()


pixel_error.higher_is_better = False


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(measure, "milliseconds", lambda *_: 1.0)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("task") / "out"
    yield fxprune.compress(Both(), (batches(), batches()), loss=loss, metric=pixel_error, output=folder, **QUICK)
    patch.undo()


def test_dicts_in_and_out_become_narrow(done):
    narrow = fxprune.load(done.output)
    assert done.stages[-1].params < 0.5 * done.stages[0].params
    outputs = narrow(image=torch.randn(3, 1, 8, 8), scale=torch.ones(3))
    assert {name: list(x.shape) for name, x in outputs.items()} == {"mask": [3, 2, 8, 8], "embedding": [3, 4]}
    report = verify_folder(done.output)
    assert report.passed
    assert not [each.what for each in report.findings if each.skipped]  # a layer that is never called stops nothing


def test_a_folder_is_merged_once_in_each_precision(done, monkeypatch):
    merged, module = [], sys.modules["fxprune.passes.rewrite.narrow"]
    made = module.merged_state
    monkeypatch.setattr(module, "merged_state", lambda model, plan: merged.append(model) or made(model, plan))
    assert verify_folder(done.output).passed
    assert [next(model.parameters()).dtype for model in merged] == [torch.float32, torch.float64]


def test_the_table_names_the_metric(done):
    text = str(done)
    assert "pixel error" in text.splitlines()[0]
    assert "accuracy" not in text
    assert [row.changed for row in done.stages[-3:]] == [0, 0, 0]
    assert math.isnan(done.stages[-1].accuracy)
    assert (done.metric, done.higher_is_better) == ("pixel error", False)


@pytest.mark.parametrize(("last", "word"), [(0.25, "better"), (0.5, "equal"), (0.75, "worse")])
def test_the_direction_of_the_metric_is_told(last, word, done):
    first, *between, end = done.stages
    shown = replace(done, stages=(replace(first, value=0.5), *between, replace(end, value=last)))
    assert f"pixel error 0.5 -> {last} ({word})" in str(shown)


def test_what_was_written_is_read_again(done):
    again = read_result(done.output)
    assert again.stages == done.stages
    assert (again.metric, again.higher_is_better) == (done.metric, done.higher_is_better)
    records = [json.loads(line) for line in (done.output / "metrics.jsonl").read_text().splitlines()]
    assert records[0]["metric"] == pytest.approx(0.5, abs=0.5)
    assert not any("top1" in record for record in records)


def test_the_report_speaks_of_the_metric(done):
    page, words = ((done.output / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert not re.search(r"\bnan\b|\bclass\b|accuracy", words, re.I)
    assert not re.search(r"\bnan\b|accuracy", page, re.I)
    assert words.startswith("# Both on two loaders\n")
    assert "Test samples whose outputs differ after the trim, of 32 | 0 |" in words
    assert f"pixel error was {done.stages[0].value:.4g} and is {done.stages[-1].value:.4g} on 32 test samples" in words
    assert "Model, data, loss and metric came from Python, so this command alone does not repeat the run" in words
    assert "<h3>Pixel error over steps</h3>" in page and "<h3>Pixel error</h3>" in page


@pytest.mark.parametrize(
    ("first", "last", "rises", "said"),
    [
        (
            0.5,
            0.6,
            False,
            "The pixel error went from 0.5 to 0.6: give C-SGD more epochs (--csgd-epochs), or keep more.",
        ),
        (0.5, 0.6, True, "Nothing was lost"),
        (0.5, 0.4, False, "Nothing was lost"),
        (0.5, 0.4, True, "The pixel error went from 0.5 to 0.4"),
        (-2.0, -3.0, True, "The pixel error went from -2 to -3"),
        (0.0, 0.1, False, "The pixel error went from 0 to 0.1"),
        (0.0, 0.0, False, "Nothing was lost"),
        (100.0, 100.5, False, "onnxruntime takes"),
    ],
)
def test_advice_goes_by_the_direction_of_the_metric(first, last, rises, said, done):
    wide, *between, end = done.stages
    stages = (replace(wide, value=first), *between, replace(end, value=last))
    shown = replace(done, stages=stages, higher_is_better=rises)
    assert next(advice_for(shown, "out")).words.startswith(said)


def test_values_below_zero_are_drawn(done, tmp_path):
    shown = replace(done, stages=tuple(replace(row, value=-2.0 - i) for i, row in enumerate(done.stages)))
    write_report(reports.write(tmp_path / "out", shown), "out")
    drawn = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(0 <= float(width) <= WIDTH for width in re.findall(r'<rect x="0" [^>]*width="(.*?)"', drawn))


def test_the_file_has_all_inputs_and_outputs(done):
    graph = onnx.load(done.output / "narrow.onnx").graph
    assert [value.name for value in graph.input] == ["image", "scale"]
    assert [value.name for value in graph.output] == ["mask", "embedding"]


def test_one_loader_is_no_pair(tmp_path):
    with pytest.raises(DataError, match=r"`data` is a name, a Data, or a pair of loaders, .* not Loader"):
        fxprune.compress(Both(), batches(), loss=loss, metric=pixel_error, output=tmp_path / "out", **QUICK)


def mean_of(outputs, targets):
    return outputs["mask"].mean()


@pytest.mark.parametrize(
    ("loss", "metric", "says"),
    [
        (mean_of, lambda o, t: math.nan, "the metric `metric` is nan on 32 test samples: where it is not defined"),
        (mean_of, lambda o, t: {"iou": 0.5}, "the metric `metric` returned dict, not a number"),
        (mean_of, lambda o, t: o["mask"], "the metric `metric` returned Tensor, not a number"),
        (lambda o, t: 0.5, mean_of, "the loss `<lambda>` returned float; it must be one number, as a tensor"),
        (lambda o, t: o["mask"], mean_of, r"the loss `<lambda>` returned a tensor of shape \[8, 2, 8, 8\]"),
        (lambda o, t: mean_of(o, t).detach(), mean_of, "the loss `<lambda>` has no gradient"),
    ],
)
def test_a_loss_or_metric_that_is_no_number_fails_before_any_training(loss, metric, says, tmp_path, monkeypatch):
    monkeypatch.setattr(fxprune.passes.job.compression.Compression, "recorded", None)  # where training begins
    with pytest.raises(DataError, match=says):
        fxprune.compress(Both(), (batches(), batches()), loss=loss, metric=metric, output=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_the_snap_must_keep_outputs(monkeypatch):
    class Nets:
        trained, snapped = nn.Identity(), nn.Linear(2, 2)

    Nets.trained = nn.Linear(2, 2)
    Nets.snapped.changes = {"weight": 0.5}
    data = data_from_pairs([(torch.randn(8, 2), torch.zeros(8))], [(torch.randn(8, 2), torch.zeros(8))], Nets.trained)
    data = fxprune.models_zoo.data.Data(**vars(data) | {"task": Task(metric=lambda o, t: o.mean())})
    with pytest.raises(VerifyError, match=r"8 of 8 test samples get an output that is 1% off \(metric .* before"):
        trim.check_snap(Nets, data)
    Nets.snapped = Nets.trained
    Nets.snapped.changes = {}
    assert trim.check_snap(Nets, data) == 0


def test_named_data_take_a_metric(tmp_path, monkeypatch):
    """And a loss alone keeps classes and accuracy."""
    monkeypatch.setattr(measure, "milliseconds", lambda *_: 1.0)
    torch.manual_seed(0)
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
    result = fxprune.compress(Tiny(), tiny_data(), loss=smooth, output=tmp_path / "out", **QUICK)
    assert result.metric == "accuracy"
    assert result.stages[0].count == 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": len, "mixup": 0.2}, "`mixup` is for classes"),
        ({"loss": len, "cutmix": 0.2}, "`cutmix` is for classes and cross entropy: leave it out beside `loss`"),
        ({"loss": len, "label_smoothing": 0.1}, "`label_smoothing` is for classes"),
        ({"metric": len, "teacher": "wide"}, "`teacher` compares logits"),
    ],
)
def test_options_of_classes_are_refused(options, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        fxprune.compress(Tiny(), tiny_data(), output=tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": pixel_error}, OptionError, r"returns dict, .* take one tensor \[N, classes\]: give `loss`, too"),
        ({"loss": loss}, DataError, r"not dict\. Other batches need `loss` and `metric`"),
    ],
)
def test_a_judge_that_is_missing_is_named(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        fxprune.compress(Both(), (batches(), batches()), output=tmp_path / "out", **options, **QUICK)


@pytest.mark.parametrize(("outputs", "names"), [(2, "2 outputs, and the data has 3 classes"), (3, None), (4, None)])
def test_fewer_outputs_than_classes_are_refused(outputs, names):
    network = Network(nn.Linear(5, outputs), None, torch.zeros(2, 5))
    with pytest.raises(ModelError, match=names) if names else contextlib.nullcontext():
        check_outputs(network, tiny_data())
