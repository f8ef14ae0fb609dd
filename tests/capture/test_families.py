"""Habits of large libraries: strides that a detector keeps, and outputs of a class of their own."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields

import pytest
import torch
from torch import Tensor, nn

import fxprune

X = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)


class Detector(nn.Module):
    """Boxes at points that are made from the maps' sizes, scaled by strides that are no buffer (as ultralytics)."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.heads = nn.ModuleList([nn.Conv2d(8, 5, 1), nn.Conv2d(12, 5, 1)])
        self.stride, self.shape = torch.tensor([2.0, 4.0]), None

    def forward(self, x):
        first = self.a(x).relu()
        maps = [head(y) for head, y in zip(self.heads, (first, self.b(first).relu()), strict=True)]
        if self.shape != x.shape:
            points, strides = [], []
            for y, stride in zip(maps, self.stride, strict=True):
                h, w = y.shape[2:]
                across, down = torch.arange(w, dtype=y.dtype) + 0.5, torch.arange(h, dtype=y.dtype) + 0.5
                points.append(torch.stack(torch.meshgrid(across, down, indexing="xy"), -1).view(-1, 2))
                strides.append(y.new_full((h * w, 1), stride, dtype=y.dtype))
            self.points, self.strides, self.shape = torch.cat(points), torch.cat(strides), x.shape
        flat = torch.cat([y.flatten(2) for y in maps], 2)
        box, score = flat.split((4, 1), 1)
        return torch.cat([(self.points.t() + box[:, :2]) * self.strides.t(), box[:, 2:].exp(), score.sigmoid()], 1)


def test_a_detector_keeps_its_strides():
    proof = fxprune.prove(Detector().eval(), X)
    assert proof.passed, proof
    assert proof.plan.coupling.share_prunable > 0.99


def test_a_detector_that_ran_keeps_its_points_for_this_shape_only():
    net = Detector().eval()
    net(X)
    plan = fxprune.plan(fxprune.couple(net, X))
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert torch.allclose(narrow(X), snapped(X), atol=1e-5)
    with pytest.raises(RuntimeError, match="capture again with example inputs like these"):
        narrow(X[:1])


@dataclass
class Answer(OrderedDict):
    """An ordered dict whose fields are its items, as the outputs of transformers."""

    logits: Tensor | None = None
    hidden: Tensor | None = None
    loss: Tensor | None = None

    def __post_init__(self):
        for each in fields(self):
            if getattr(self, each.name) is not None:
                self[each.name] = getattr(self, each.name)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x, with_hidden=False):
        y = self.b(self.a(x).relu())
        return Answer(logits=self.c(y.relu()).mean((2, 3)), hidden=y if with_hidden else None)


@pytest.mark.parametrize("inputs", [(X,), {"x": X}, {"x": X, "with_hidden": True}])
def test_outputs_keep_their_class(inputs):
    net = Classifier().eval()
    plan = fxprune.plan(fxprune.couple(net, inputs))
    snapped = fxprune.snap(net, plan)
    call = inputs if isinstance(inputs, dict) else {"x": X}
    wanted, found = snapped(**call), fxprune.narrow(snapped, plan)(**call)
    assert type(found) is Answer
    assert list(found) == list(wanted)
    assert found.loss is None
    assert torch.allclose(found.logits, wanted.logits, atol=1e-6)


class Wanted(nn.Module):
    """One output of a network: what else leaves it does not count."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x, with_hidden=True).logits


def test_a_wrapper_says_which_outputs_count():
    net = Classifier().eval()
    assert list(fxprune.couple(net, {"x": X, "with_hidden": True}).groups) == ["a.weight"]
    assert list(fxprune.couple(Wanted(net), X).groups) == ["net.a.weight", "net.b.weight"]
