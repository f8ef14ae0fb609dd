"""The analysis takes repetitions once: time steps of a recurrent layer, and calls that are alike."""

import pytest
import torch
from torch import nn

import fxprune
from fxprune.analysis import watched_layers
from fxprune.costs import cost


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(12, 4)
        self.m = nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.b(self.m(self.a(x))[0])


def test_a_few_time_steps_stand_for_all(monkeypatch):
    net, x = Recurrent().eval(), torch.randn(2, 12, 6)
    few = fxprune.couple(net, x)
    monkeypatch.setattr(watched_layers, "_is_plain", lambda *_: False)
    every = fxprune.couple(net, x)
    assert str(few.groups) == str(every.groups)
    assert few.frozen == every.frozen
    assert cost(few) == cost(every)
    sizes = [shape.sizes for each in (few, every) for shape in [each.nodes["b"].value]]
    assert sizes == [(2, 12, 4), (2, 12, 4)]
    works = [len(each.nodes["m"].works) for each in (few, every)]
    assert works[0] < works[1]


class Branching(nn.Linear):
    def __init__(self, limit):
        super().__init__(8, 8)
        self.limit = limit

    def forward(self, x):
        y = super().forward(x)
        return y.relu() if y.shape[-1] >= self.limit else y.tanh()


def test_calls_of_one_class_with_other_attributes_are_tried_apart():
    net = nn.Sequential(nn.Linear(4, 8), Branching(0), Branching(0), Branching(8), nn.Linear(8, 4)).eval()
    coupling = fxprune.couple(net, torch.randn(2, 4))
    assert list(coupling.groups) == ["0.weight", "1.weight"]
    assert {each.node for each in coupling.frozen if "knows its own width" in each.why} == {"_3"}


class Same:
    """Equal to all of its class, whatever it holds."""

    def __init__(self, limit):
        self.limit = limit

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0


class Held(nn.Linear):
    def __init__(self, limit):
        super().__init__(8, 8)
        self.held, self.cycle = Same(limit), []
        self.cycle.append(self.cycle)

    def forward(self, x):
        y = super().forward(x)
        return y.relu() if y.shape[-1] >= self.held.limit else y.tanh()


class Frozen(Branching):
    def forward(self, x):
        y = nn.Linear.forward(self, x)
        return y.relu() if y.shape[-1] >= 8 or self.bias.requires_grad else y.tanh()


def frozen_bias():
    layer = Frozen(0)
    layer.bias.requires_grad_(False)
    return layer


@pytest.mark.parametrize("layers", [(Held(0), Held(8)), (Frozen(0), frozen_bias())])
def test_what_no_description_tells_apart_is_tried_apart(layers):
    net = nn.Sequential(nn.Linear(4, 8), layers[0], nn.Linear(8, 8), layers[1], nn.Linear(8, 4)).eval()
    coupling = fxprune.couple(net, torch.randn(2, 4))
    assert {each.node for each in coupling.frozen if "knows its own width" in each.why} == {"_3"}


class Sequence(nn.LSTM):
    def forward(self, x):
        return super().forward(x)[0]


def test_a_recurrent_layer_of_another_class_runs_all_steps():
    net = nn.Sequential(nn.Linear(6, 8), Sequence(8, 6), nn.Linear(6, 4)).eval()
    coupling = fxprune.couple(net, torch.randn(12, 2, 6))
    assert coupling.nodes["_1"].value.sizes == (12, 2, 6)
