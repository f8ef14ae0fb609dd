"""A network is built wider and comes back to its own widths, exactly, or that is refused."""

from __future__ import annotations

import functools

import pytest
import torch
from helpers.couplings.cases import normed, plain
from helpers.couplings.tower import tower
from helpers.jobs.inputs import tiny_data
from helpers.rewrites.merges import narrow_unequal

import fxprune
from fxprune.errors import ModelError, OptionError, PlanError
from fxprune.models_zoo import registry
from fxprune.models_zoo.build import build
from fxprune.models_zoo.networks import CifarResNet
from fxprune.passes.job.widen import build_widened, widths_back
from fxprune.passes.options.job import Job
from fxprune.passes.report.run_folder import open_run


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "factor", "size"),
    [
        ("resnet20", 1.5, 32),
        ("densenet40", 1.25, 32),
        ("vgg16_cifar", 1.25, 32),
        ("torchvision/mobilenet_v2", 1.4, 32),
        ("torchvision/resnet50", 1.25, 32),
        ("resnet26", 1.25, 32),
    ],
)
def test_a_wider_network_comes_back_to_the_shapes_of_the_network(name, factor, size, monkeypatch):
    couplings = []

    def couple(*args):
        couplings.append(fxprune.couple(*args))
        return couplings[-1]

    monkeypatch.setattr("fxprune.passes.job.widen.couple", couple)
    wide = build_widened(name, factor, num_classes=10, image_size=size)
    coupling, own = couplings[-2:]
    assert coupling.network is wide.model
    before, own_shapes = shapes(wide.model), shapes(own.network)
    assert sum(before[key] != shape for key, shape in own_shapes.items()) > 20
    widths = widths_back(coupling, own)
    narrow = narrow_unequal(wide.model, fxprune.plan(coupling, widths=widths, method="even"))
    assert shapes(narrow) == own_shapes
    assert shapes(wide.spec.build()) == before


@pytest.mark.parametrize(
    ("name", "factor", "error", "message"),
    [
        ("resnet18", 1.5, ModelError, "`resnet18` cannot be built 1.5 times as wide: its builder takes none of width,"),
        ("nonesuch", 1.5, ModelError, "no model is called `nonesuch`"),
        ("resnet20", 1.001, ModelError, "or they change no width"),
    ],
)
def test_what_cannot_be_widened(name, factor, error, message):
    with pytest.raises(error, match=message):
        build_widened(name, factor, num_classes=10, image_size=32)


def test_what_does_not_come_back():
    (wide, on_wide), (own, on_own) = tower(3, 12, 8, 2), tower(3, 6, 8, 2)
    assert widths_back(on_wide, on_own) == {"layers.0.weight": 6, "layers.1.weight": 8}
    with pytest.raises(PlanError, match="can have 1 to 6 channels, not 12"):
        widths_back(on_own, on_wide)
    other, on_other = tower(4, 6, 8, 2)
    with pytest.raises(PlanError, match=r"`layers.0.weight` would be \(6, 3\), not \(6, 4\); what widens it is frozen"):
        widths_back(on_wide, on_other)
    balanced, on_balanced = tower(3, 9, 8, 2, domain=0)
    smaller, on_smaller = tower(3, 6, 8, 2, domain=0)
    with pytest.raises(PlanError, match=r"cannot be brought back .* needs clusters of one size"):
        widths_back(on_balanced, on_smaller)
    with pytest.raises(PlanError, match="other groups: 4 are in one of the two alone, first"):
        widths_back(plain().coupling, normed().coupling)
    assert all(model is not None for model in (wide, own, other, balanced, smaller))  # kept alive


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"widen": 1.0}, "`widen` must be above 1"),
        ({"widen": 2.0, "keep": 0.5}, "`widen` and `keep` exclude each other"),
        ({"widen": 2.0, "stages": "auto"}, "`widen` and `stages` exclude each other"),
        ({"widen": 2.0, "freeze": ["a"]}, "`widen` and `freeze` exclude each other"),
        ({"widen": 2.0, "pretrained": True}, "`widen` and `pretrained` exclude each other"),
        ({"widen": 2.0, "round_to": 8}, "`widen` and `round_to` exclude each other"),
        ({"widen": 2.0, "model": torch.nn.Linear(1, 1)}, "give `model` as a name"),
    ],
)
def test_wrong_options(options, says):
    with pytest.raises(OptionError, match=says):
        Job(**{"model": "resnet20", "data": "digits"} | options)


def test_the_job_ends_at_the_widths_of_the_network(tmp_path, untimed, monkeypatch):
    monkeypatch.setattr(registry, "OWN", {"resnet8": functools.partial(CifarResNet, 1)})
    options = {"epochs": 0, "csgd_epochs": 1, "progress": False, "deviation": 1e-3, "method": "even"}
    done = fxprune.compress("resnet8", tiny_data(), widen=1.5, output=tmp_path / "out", **options)
    own = build("resnet8", num_classes=3, in_chans=1, image_size=8)
    assert shapes(fxprune.load(done.output)) == shapes(own.model)
    assert done.widths["conv1.weight"] == (24, 16)
    assert [stage.changed for stage in done.stages[-3:]] == [0, 0, 0]
    assert open_run(done.output).wide.snapped.conv1.out_channels == 24
