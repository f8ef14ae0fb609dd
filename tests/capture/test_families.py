"""Habits of large libraries: strides that a detector keeps, and outputs of a class of their own."""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from dataclasses import dataclass, fields

import numpy as np
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


@pytest.mark.parametrize("first", [X, X[:1], X[..., :8]])
def test_a_detector_that_ran_makes_its_points_anew(first):
    net = Detector().eval()
    net(first)
    plan = fxprune.plan(fxprune.couple(net, X))
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    for x in (X, X[:1], torch.cat([X, X]), X[..., :8], first):
        assert torch.allclose(narrow(x), snapped(x), atol=1e-5)  # float32


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


class Windows(nn.Module):
    """Windows, whose number of images is a quotient of sizes, with a scale that numpy made (as SwinIR)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Linear(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = self.a(x).permute(0, 2, 3, 1)
        n, h, w, c = y.shape
        y = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        y = self.b(y) * np.float64(0.5)
        images = int(y.shape[0] / (h * w / 4 / 4))
        assert isinstance(images, int) and isinstance(int("3"), int)
        y = y.view(images, h // 4, w // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5).reshape(images, h, w, -1)
        return self.c(y.permute(0, 3, 1, 2))


def test_a_number_of_images_that_is_computed_stays_open():
    proof = fxprune.prove(Windows(), X)
    assert proof.passed, proof
    assert proof.plan.widths == {"a.weight": (8, 4), "b.weight": (8, 4)}
    assert vars(sys.modules[__name__]).get("int") is None
    snapped = fxprune.snap(Windows(), proof.plan)
    narrow, other = fxprune.narrow(snapped, proof.plan), torch.randn(3, 3, 8, 12)
    assert torch.allclose(narrow(other), snapped(other), atol=1e-5)


def test_a_parameter_without_numbers_is_no_obstacle():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 2, 1))
    net.empty = nn.Parameter(torch.empty(1, 0))
    net.other = nn.Parameter(torch.empty(0))
    assert fxprune.couple(net, X).groups


class TwoLayers(nn.Module):
    """Layers around what the networks below do."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)


class OtherData(TwoLayers):
    """A buffer that is reached past its module gets the data of a proxy: PyTorch would read it as a tensor."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(8))

    def forward(self, x):
        y = self.a(x)
        if y.shape[2] > 4:
            self._buffers["last"].data = y.mean((0, 2, 3))
        return self.b(y + self.last[:, None, None])


def test_data_of_a_proxy_ends_no_process():
    with pytest.raises(fxprune.errors.CaptureError):
        fxprune.couple(OtherData().eval(), X)


# C code that asks `isinstance` and then reads the memory of what it takes for a tensor.
READ_IN_C = {
    "legacy type": (lambda y: y * isinstance(y, torch.FloatTensor), True),
    "as_tensor": (torch.as_tensor, True),
    "asarray": (lambda y: torch.asarray(y.detach()), True),
    "subclass": (lambda y: torch.Tensor._make_subclass(nn.Parameter, y), False),
    "DLPack": (lambda y: torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(y)), False),
}


class ReadInC(TwoLayers):
    """Such a call, in a network that decides something by its sizes."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        y = self.a(x)
        return self.b(self.call(y) if y.shape[2] > 4 else y)


@pytest.mark.parametrize("name", READ_IN_C)
def test_a_proxy_in_c_code_ends_no_process(name):
    call, works = READ_IN_C[name]
    with contextlib.nullcontext() if works else pytest.raises(fxprune.errors.CaptureError):
        fxprune.couple(ReadInC(call).eval(), X)


@pytest.mark.parametrize("name", ["pow", "float_power", "remainder", "xlogy", "mul", "bitwise_and"])
def test_a_function_that_takes_a_number_first_ends_no_process(name):
    class Curved(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            y = self.a(x if x.shape[2] > 1 else -x).sigmoid()  # a branch by a size: traced with the example
            other = getattr(torch, name)(y.long() if name == "bitwise_and" else y, 3)
            return self.b(y + other.to(y.dtype))

    coupling = fxprune.couple(Curved(), X)
    assert coupling.graph_module.meta["fxprune_capture"] == "concrete"
    assert {group.width for group in coupling.groups.values()} == {8}
