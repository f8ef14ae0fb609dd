"""What a report says, page or not: shares of the cost, advice, the command, and images."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import pytest
import torch
from helpers.couplings.cases import plain
from helpers.jobs import reports
from PIL import Image
from torch import nn

import fxprune
from fxprune.models_zoo.data.preprocessing import Preprocessing
from fxprune.models_zoo.data.tensor_loader import TensorLoader
from fxprune.passes.job.result_files import shown_images
from fxprune.passes.report import contents
from fxprune.passes.report.shares import Share, shares_of
from fxprune.passes.report.verdicts import advice_for, command_of


def test_shares_add_up_to_the_cost_of_the_network():
    case = plain()
    coupling = fxprune.couple(case.model, case.inputs)
    plan = fxprune.plan(coupling, keep=0.5, method="even")
    shares, batch = shares_of(plan), len(case.inputs[0])
    for when, cost in enumerate((fxprune.cost(coupling), fxprune.cost(plan))):
        assert sum(share.params[when] for share in shares) == cost.params
        assert sum(share.macs[when] for share in shares) == cost.macs // batch
    assert {share.name: share.width for share in shares if share.name} == plan.widths


def test_a_weight_counts_for_the_channels_that_it_makes():
    layers = (nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 8, 2, 2), nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1))
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 2))
    plan = fxprune.plan(fxprune.couple(network, torch.randn(2, 3, 9, 9)), keep=0.5, method="even")
    assert {share.name: (share.params[0], share.macs[0]) for share in shares_of(plan)} == {
        "0.weight": (4 * 27 + 4, 4 * 27 * 49),
        "1.weight": (4 * 8 * 4 + 8, 4 * 8 * 4 * 49),
        "2.weight": (6 * 8 + 6 + 12, 6 * 8 * 196 + 12),  # and what only reads it
        "": (2, 0),
    }


def test_many_groups_are_added_up_by_part():
    def shares(count, name="part{}.{}.weight"):
        return [Share(name.format(i // 10, i), (2, 1), (10, 5), (4, 2)) for i in range(count)]

    few, many, flat = (contents.by_part(each) for each in (shares(16), shares(40), shares(40, "{1}_{0}")))
    assert (few[0], few[1]) == (shares(16), "group")
    assert many[0] == [Share(f"part{i}", (20, 10), (100, 50), (40, 20)) for i in range(4)]
    assert (len(flat[0]), flat[0][-1]) == (16, Share("all others", (50, 25), (250, 125), (100, 50)))


@pytest.mark.parametrize(
    ("correct", "onnx_ms", "said"),
    [(90, 0.25, "It lost 8.00 points"), (98, 0.25, "ask for a smaller share"), (97, 0.9, "0.90 of the time for 0.25")],
)
def test_advice_goes_by_the_numbers(tmp_path, correct, onnx_ms, said):
    found = reports.result(tmp_path)
    *rows, last = found.stages
    last = replace(last, correct=correct, onnxruntime_ms=onnx_ms)
    words = [each.words for each in advice_for(replace(found, stages=(*rows, last)), "out")]
    assert said in words[0]
    assert len(words) == 4


def test_the_command_has_what_is_not_by_default(tmp_path):
    options = {"model": "a net", "data": "digits", "keep": 0.5, "widths": {"a": 1}, "seed": 0, "coupled": True}
    found = reports.result(tmp_path, options=options | {"only": ["x", "y"], "progress": False})
    whole = " ".join(command_of(found, ()))
    assert whole == "fxprune compress --model 'a net' --data digits --keep 0.5 --widths a=1 --only x y --coupled"
    assert " ".join(command_of(found, ("model",))).startswith("fxprune compress --data digits")


def test_images_whose_class_changes_are_shown_and_undo_their_normalisation():
    images = torch.linspace(-1, 1, 40)[:, None, None, None].expand(40, 1, 4, 4)
    labels, wide = torch.arange(40) % 3, torch.arange(40) % 3
    narrow = wide.clone()
    narrow[[7, 9]] = (wide[[7, 9]] + 1) % 3
    preprocessing = Preprocessing((1, 4, 4), (0.5,), (0.5,), label_names=("a", "b"))
    found = shown_images(TensorLoader(images, labels, 16), wide, narrow, preprocessing)
    assert len(found) == 12
    changed = [(each.truth, each.narrow) for each in found if each.wide != each.narrow]
    assert changed == [("b", "2"), ("a", "b")]  # the third class has no name
    pixels = [Image.open(io.BytesIO(base64.b64decode(each.png))).getpixel((0, 0)) for each in found]
    assert (pixels[0], pixels[-1], pixels == sorted(pixels)) == (0, 255, True)
    assert shown_images(TensorLoader(images, labels, 16), wide, narrow, preprocessing, labelled=False)[0].truth == ""
