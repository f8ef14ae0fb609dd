"""Inputs of any form are cut, held back and left alone; what is no input is one clear error."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs.inputs import images, planned
from samples import Net
from torch import nn

import fxprune
from fxprune.errors import DataError, ModelError, OptionError

BAD = {
    "no such repair": (lambda x: {"repair": "magic"}, OptionError, "`repair` must be one of .*, not magic"),
    "a repair that needs images": (lambda x: {"repair": "readers"}, OptionError, "needs `batches`"),
    "no images": (lambda x: {"batches": []}, DataError, "no images"),
    "another size": (lambda x: {"batches": [x[..., :4]]}, DataError, r"float32 \[48, 1, 8, 4\]"),
    "other channels": (lambda x: {"batches": [x.repeat(1, 3, 1, 1)]}, DataError, "float32"),
    "labels, too": (lambda x: {"batches": [(x, torch.zeros(48, dtype=torch.int64))]}, DataError, "int64"),
    "a NaN": (lambda x: {"batches": [x / 0 * 0]}, DataError, "NaN"),
    "variance from images": (lambda x: {"batches": [x], "repair": "variance"}, OptionError, "no `batches`"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error(name):
    given, error, says = BAD[name]
    model, plan = planned()
    with pytest.raises(error, match=says):
        fxprune.fold(model, plan, **given(images()))


def test_an_activation_that_is_no_number_is_an_error():
    model, plan = planned()
    with torch.no_grad():
        model.head.bias.fill_(float("inf"))
    with pytest.raises(ModelError, match="infinity"):
        fxprune.fold(model, plan, [images()])


def test_a_network_with_two_inputs_is_repaired_too():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.norm = nn.Linear(5, 8), nn.Linear(4, 8), nn.BatchNorm1d(8)
            self.head = nn.Linear(8, 3)

        def forward(self, x, y):
            return self.head(self.norm(self.left(x) + self.right(y)).relu())

    model, inputs = Two().eval(), {"x": torch.randn(80, 5), "y": torch.randn(80, 4)}
    example = {name: x[:2] for name, x in inputs.items()}
    plan = fxprune.plan(fxprune.couple(model, example), keep=0.5, cluster="outputs", batches=[inputs])
    errors = fxprune.fold(model, plan, [inputs]).meta["errors"]
    assert set(errors) == {"none", "statistics", "readers"} and errors["readers"] < errors["none"]


def test_inputs_get_the_dtype_of_the_network():
    model, _ = planned()
    model = model.double()
    x = images()
    coupling = fxprune.couple(model, x[:2].double())
    plan = fxprune.plan(coupling, keep=0.5, cluster="activations", batches=[x])
    assert fxprune.fold(model, plan, [x]).meta["errors"]["readers"] < 1


def test_a_network_that_writes_to_its_input_leaves_the_images_alone():
    layers = {"first": nn.Conv2d(1, 8, 3), "second": nn.Conv2d(8, 3, 3)}
    model = Net(lambda s, x: s.second(s.first(x.mul_(0.5)).relu()), **layers).eval()
    x = images(64)
    before = x.clone()
    plan = fxprune.plan(fxprune.couple(model, x[:2].clone()), keep=0.5, cluster="outputs", batches=[x])
    errors = fxprune.fold(model, plan, [x]).meta["errors"]
    assert torch.equal(x, before) and errors["readers"] < errors["none"]


def test_inputs_that_are_not_by_sample_stay_whole():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x, mask):
            return self.second((self.first(x) * mask[:, None]).relu())

    model, x, mask = Masked().eval(), torch.randn(128, 40, 8), torch.rand(40)
    plan = fxprune.plan(fxprune.couple(model, (x[:2], mask)), keep=0.5, cluster="outputs", batches=[(x, mask)])
    errors = fxprune.fold(model, plan, [(x, mask)]).meta["errors"]
    assert errors["readers"] < errors["none"]
    with pytest.raises(DataError, match=r"float32 \[39\]"):
        fxprune.fold(model, plan, [(x, mask[:39])])


@pytest.mark.parametrize(("count", "held"), [(2, 1), (3, 1), (33, 8), (64, 16), (100, 25)])
def test_a_quarter_is_held_back(count, held):
    from fxprune.passes.calibration import calibration

    _, plan = planned()
    found = calibration([images(count)], plan.coupling)
    assert sum(len(batch[0]) for batch in found.held) == held
    assert sum(len(batch[0]) for batch in found.batches) == count - held


def test_one_image_is_too_few():
    model, plan = planned()
    with pytest.raises(DataError, match="two inputs or more"):
        fxprune.fold(model, plan, [images(1)])
    assert fxprune.fold(model, plan, [images(1)], repair="none").meta["repair"] == "none"


def test_two_images_are_enough_to_run():
    model, plan = planned()
    small = fxprune.fold(model, plan, [images(2)])
    assert torch.isfinite(small(images())).all()
    needed = small.meta["needed"]
    assert set(needed) == {each.layer for each in small.meta["repairs"]} and max(needed.values()) > 2


@pytest.mark.parametrize("count", [2, 44])  # of which 1, and 32 and 1, are not held back
def test_a_single_sample_settles_no_norm_with_one_position(count):
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    plan = fxprune.plan(fxprune.couple(model, torch.randn(2, 5)), keep=0.5)
    errors = fxprune.fold(model, plan, [torch.randn(count, 5)]).meta["errors"]
    assert set(errors) == ({"none", "readers"} if count == 2 else {"none", "statistics", "readers"})
