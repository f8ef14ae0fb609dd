"""A layer outside of the network is its operations, or refused if it has weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.capture.trace import capture
from fxprune.errors import CaptureError

X = torch.linspace(-1, 1, 2 * 3 * 16, dtype=torch.float64).reshape(2, 3, 16)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 8, 3, padding=1), nn.Conv1d(8, 4, 1)
        self.body = nn.Sequential(nn.Conv1d(8, 8, 1), nn.ReLU(), nn.Conv1d(8, 8, 1))

    def forward(self, x):
        return self.b(self.part(self.a(x)))


class Sliced(Parts):
    """As the temporal networks of ESPnet."""

    def part(self, y):
        return self.body[:2](y)


class Anew(Parts):
    def part(self, y):
        return nn.Sequential(self.body[0], nn.Sequential(nn.ReLU(), self.body[2]))(y)


@pytest.mark.parametrize(("kind", "widths"), [(Sliced, 2), (Anew, 3)])
def test_a_new_container_of_parts_of_the_network_is_traced(kind, widths):
    net = kind().double().eval()
    names = [node.target for node in capture(net, (X,), ways=("symbolic",)).graph.nodes if node.op == "call_module"]
    assert "body.0" in names
    proof = fxprune.prove(net, X)
    assert proof.passed and len(proof.plan.widths) == widths, proof


class Blur(nn.Module):
    """As the filters of julius, with a buffer."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("filt", torch.ones(channels, 1, 3, dtype=torch.float64) / 3)

    def forward(self, x):
        return F.conv1d(x, self.filt, padding=1, groups=x.shape[1])


class Kept(Parts):
    def __init__(self):
        super().__init__()
        self.helpers = [Blur(8)]

    def part(self, y):
        return self.helpers[0](y)


def test_a_layer_with_buffers_in_a_list_is_traced():
    net = Kept().double().eval()
    assert torch.equal(capture(net, (X,), ways=("symbolic",))(X), net(X))


class Weights(Parts):
    def part(self, y):
        layer = nn.Conv1d(8, 8, 1, dtype=torch.float64)
        layer.weight.data.fill_(1.0)
        layer.bias.data.zero_()
        return layer(y)


def test_a_layer_with_weights_made_by_forward_is_refused_by_its_class_and_line():
    said = r"at \S+test_layers_outside.py:\d+ .*: a Conv1d with weights is called that is no part of the network\. Make"
    with pytest.raises(CaptureError, match=said):
        fxprune.couple(Weights().double().eval(), X)


class Compared(nn.ReLU):
    """A layer that is equal to others with the same numbers, as the bases of escnn."""

    def __init__(self):
        super().__init__()
        self.register_buffer("radii", torch.ones(1))

    def __eq__(self, other):
        return isinstance(other, Compared) and torch.equal(self.radii, other.radii)

    def __hash__(self):
        return hash(self.radii.numpy().tobytes())


class Equal(Parts):
    def __init__(self):
        super().__init__()
        self.first, self.second = Compared(), Compared()

    def part(self, y):
        return self.second(self.first(y))


def test_no_layer_is_asked_for_its_hash_or_whether_it_equals_another():
    net = Equal().double().eval()
    methods = Compared.__hash__, Compared.__eq__
    assert fxprune.prove(net, X).passed
    assert methods == (Compared.__hash__, Compared.__eq__)
