"""Layers of every kind are fitted, whatever follows them, and a layer that cannot be says so."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs.inputs import images
from torch import nn

import fxprune
from fxprune.passes.verify.prove import scattered
from fxprune.pytorch.torch_private import ConvNd


def block(*layers):
    return nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), *layers).eval()


READERS = {
    "convolution": lambda: block(nn.Conv2d(12, 4, 3)),
    "grouped": lambda: block(nn.Conv2d(12, 12, 3, groups=3), nn.ReLU(), nn.Conv2d(12, 4, 1)),
    "depthwise": lambda: block(nn.Conv2d(12, 12, 3, groups=12), nn.ReLU(), nn.Conv2d(12, 4, 1)),
    "transposed": lambda: block(nn.ConvTranspose2d(12, 4, 3, stride=2)),
    "linear": lambda: block(nn.Flatten(), nn.Linear(12 * 64, 5)),
    "normalised": lambda: block(nn.Conv2d(12, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
}


@pytest.mark.parametrize("name", READERS)
def test_readers_of_every_kind_are_fitted(name):
    model = READERS[name]()
    x = images(800 if name == "linear" else 96)  # a linear layer sees one position of each image, and has 384 features
    plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
    small = fxprune.fold(model, plan, [x])
    assert small.meta["errors"]["readers"] < 0.5 * small.meta["errors"]["none"]
    fitted = {each.layer for each in small.meta["repairs"] if each.note.startswith("ridge")}
    readers = [key for key, layer in model.named_children() if isinstance(layer, (ConvNd, nn.Linear)) and key != "0"]
    assert fitted >= {f"{key}.weight" for key in readers}


class Twice(nn.Module):
    """One convolution reads two maps."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.reader = nn.Conv2d(1, 8, 3), nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.reader(self.first(x).relu()), self.reader(self.second(x).relu())


def test_a_shared_layer_is_fitted_to_all_its_calls():
    model = Twice().eval()
    x = images(96)
    plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
    small = fxprune.fold(model, plan, [x])
    assert small.meta["errors"]["readers"] < 0.5 * small.meta["errors"]["none"]
    assert [each.layer for each in small.meta["repairs"]].count("reader.weight") == 1


def test_many_features_are_fitted_in_blocks(monkeypatch):
    from fxprune.passes.repair import layers

    model = READERS["linear"]()
    x = images(200)
    plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
    whole = fxprune.fold(model, plan, [x]).meta["errors"]
    monkeypatch.setattr(layers, "MOST_FEATURES", 100)
    blocks = fxprune.fold(model, plan, [x]).meta["errors"]
    assert blocks["readers"] < 0.7 * blocks["none"] == 0.7 * whole["none"]


def test_a_layer_makes_up_for_what_other_addends_lack():
    """The last layer of a branch sees the error of the stream that it is added to."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.branch = nn.Linear(6, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.stem(x)
            return x + self.branch(x)

    model = Residual().double().eval()
    x = torch.randn(128, 6, dtype=torch.float64)
    net = nn.Sequential(model, nn.Linear(8, 3).double()).eval()
    plan = scattered(fxprune.couple(net, x[:2]), keep=0.5, seed=0)
    found = {each.layer: each for each in fxprune.fold(net, plan, [x]).meta["repairs"]}
    assert found["0.branch.weight"].after < found["0.branch.weight"].before


NORMS = {
    "group norm": lambda: nn.GroupNorm(4, 16),
    "layer norm": lambda: nn.GroupNorm(1, 16),
    "batch norm": lambda: nn.BatchNorm2d(16),
}


@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_behind_a_layer_does_not_mislead_the_fit(norm):
    """A norm ignores a common shift of all channels, so it is no addition with a factor."""
    layers = [layer for width in (1, 16) for layer in (nn.Conv2d(width, 16, 3, padding=1), NORMS[norm](), nn.ReLU())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)).eval()
    x = images(128)
    plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
    found = fxprune.fold(model, plan, [x])
    assert found.meta["errors"]["readers"] < 0.8 * found.meta["errors"]["none"]
    assert all(each.after <= each.before < 10 for each in found.meta["repairs"])


def test_a_softmax_behind_a_layer_does_not_mislead_the_fit():
    model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 5), nn.Softmax(1)).eval()
    x = torch.randn(128, 6)
    plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
    errors = fxprune.fold(model, plan, [x]).meta["errors"]
    assert errors["readers"] < errors["none"]


class Branches(nn.Module):
    """Two branches that are added, in place or not."""

    def __init__(self, in_place):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm, self.head, self.in_place = nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3), in_place

    def forward(self, x):
        x = self.stem(x).relu()
        y, z = self.left(x), self.norm(self.right(x))
        if self.in_place:
            y += z
        else:
            y = y + z
        return self.head(y.relu())


def test_an_addition_in_place_is_fitted_like_any_other():
    x, errors = images(96), []
    for in_place in (False, True):
        torch.manual_seed(3)
        model = Branches(in_place).eval()
        plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
        errors.append(fxprune.fold(model, plan, [x]).meta["errors"])
    assert errors[0] == errors[1]


def test_a_weight_that_others_read_too_keeps_its_columns():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.up, self.down = nn.Embedding(11, 8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            x = self.table(x)
            return torch.nn.functional.linear(self.down(self.up(x).relu()), self.table.weight)

    model, x = Tied().eval(), torch.randint(11, (96, 5))
    plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
    small = fxprune.fold(model, plan, [x])
    notes = {each.layer: each.note for each in small.meta["repairs"]}
    assert notes["table.weight"] == "used in several forms: keeps its summed columns"
