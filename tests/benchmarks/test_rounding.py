"""The unit of rounding: a network whose channels changed places is the same network, but for the order of its sums."""

from __future__ import annotations

import math

import pytest
import torch
from samples import SAMPLES
from torch import nn

import fxprune
from benchmarks.rounding.__main__ import missing, page
from benchmarks.rounding.measure import FORMATS, RoundingTask, difference, in_format, permuted, rounding, work
from fxprune.passes.verify.randomise import randomised


@pytest.mark.parametrize("name", ["residual", "grouped", "linear after pooling to 2x2", "attention", "group norm"])
def test_channels_change_places_and_nothing_else_changes(name):
    sample = SAMPLES[name]
    model = randomised(sample.net).double()
    inputs = tuple(torch.randn(x.shape, dtype=torch.float64) for x in sample.inputs)
    coupling = fxprune.couple(model, inputs)
    other = permuted(model, coupling, seed=1)
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    assert difference(model, [other], inputs) < 1e-12  # the order of sums


@pytest.mark.parametrize("name", ["float32", "channels_last", "bfloat16", "float16"])
def test_formats(name):
    model, images = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 5)
    made, (given,) = in_format(model, (images,), name)
    assert made(given).dtype == given.dtype == made.weight.dtype and model.weight.dtype == torch.float32
    assert given.is_contiguous(memory_format=torch.channels_last) == (name == "channels_last")


def test_what_is_not_finite_has_no_unit():
    assert difference(nn.Flatten(), [nn.Flatten()], (torch.tensor([[math.inf]]),)) == math.inf


def test_the_page_tells_units_and_what_was_not_measured():
    rows = {
        "a": {"float32": [1e-7, 2e-7], "float16": [math.inf, math.inf]},
        "b": {"float32": [1e-7, 2e-6]},
        "c": {"error": "took longer than the limit"},
    }
    text = page(rows, classes=4, present=1)
    assert "| float32 | 2 | 0 | 11.00 | 2.00 | 20.0 | 2.0e-06 |" in text
    assert "`b` in float32: 20.0" in text and "`c` (took longer" in text
    assert "2 of 4 classes were measured, 1 of them on the present sources; the others" in " ".join(text.split())


def test_a_unit_is_no_less_than_the_distance_from_float64():
    model, images = nn.Linear(64, 4), torch.randn(2, 64)
    here, given = in_format(model, (images,), "bfloat16")
    assert difference(here, [here], given) == 0.0
    unit = rounding(model, here, [here], (images,), given)
    assert 1e-4 < unit < 0.1
    assert rounding(model, here, [nn.Linear(64, 4).to(here.weight.dtype)], (images,), given) > unit


def test_only_formats_that_a_row_lacks_are_measured():
    plain = tuple(name for name in FORMATS if name != "compile")
    assert missing(None, compiles=False) == plain
    assert missing(None, compiles=True) == FORMATS
    row = dict.fromkeys(plain, (1e-7, 1e-7))
    assert missing(row, compiles=False) == ()
    assert missing(row, compiles=True) == ("compile",)
    assert missing({"float32": [1e-7, 1e-7], "onnx_refused": "why"}, compiles=False) == plain[1:4]
    assert missing({"error": "took longer than the limit"}, compiles=True) == ()


def test_the_formats_of_a_task_are_measured_and_the_unit(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # which other tests share
    facts = {}
    work(RoundingTask("test_resnet", ("bfloat16",)), lambda **found: facts.update(found))
    assert facts.keys() == {"parameters", "image", "float32", "bfloat16"}
    assert facts["float32"][0] < 1e-4 < facts["bfloat16"][0]  # what 24 and 8 bits round to
