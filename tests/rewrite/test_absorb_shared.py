"""A table of embeddings that is also the weight of the last layer takes the factor of the norm between them."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.merges import halved
from torch import nn

import fxprune


class Language(nn.Module):
    """A table of embeddings whose rows also are the weight of the last layer, with a norm in front of it or without."""

    def __init__(self, width, norm):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.mix = nn.Embedding(10, width), nn.Linear(width, width)
        self.norm = norm(width) if norm else nn.Identity()
        self.head = nn.Linear(width, 10)
        self.head.weight = self.table.weight

    def forward(self, index):
        x = self.table(index)
        return self.head(self.norm(x + self.mix(x).relu()))


class RootMeanSquare(nn.Module):
    """As language models write it."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        return self.weight * (x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt())


@pytest.mark.parametrize("norm", [nn.LayerNorm, RootMeanSquare, None])
def test_a_table_that_is_shared_with_the_last_layer_is_narrowed(norm):
    index = torch.arange(10).view(2, 5)
    model = Language(16, norm).double().eval()
    snapped, narrow = halved(model, (index,))
    assert narrow.table.weight is narrow.head.weight and narrow.table.weight.shape == (10, 8)
    torch.testing.assert_close(narrow(index), snapped(index), rtol=1e-12, atol=1e-12)  # float64: sums of two columns
    by_hand = Language(8, norm).double().eval()
    by_hand.load_state_dict(narrow.state_dict())
    fits = torch.allclose(by_hand(index), snapped(index), rtol=1e-12, atol=1e-12)
    # Without a norm the factor would have to scale what the table and `mix` put into the stream.
    assert fits == (norm is not None) and narrow.meta["factors"] == (norm is None)


def shifted(layer):
    layer.forward = lambda x: F.linear(x + 1, layer.weight, layer.bias)


CHANGED = {
    "hook in front": lambda layer: layer.register_forward_pre_hook(lambda _, given: (given[0].clamp(-1, 1),)),
    "hook behind": lambda layer: layer.register_forward_hook(lambda _, given, out: out + given[0].mean()),
    "forward of its own": shifted,
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_sees_the_input_of_a_shared_layer_gets_no_factor(name):
    index = torch.arange(10).view(2, 5)
    model = Language(16, nn.LayerNorm).double().eval()
    CHANGED[name](model.head)
    assert "table.weight" not in fxprune.couple(model, (index,)).groups


class Autoencoder(nn.Module):
    """A convolution whose weight also goes back to the input; its own function may bound what goes in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.encode, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        code = self.encode(self.stem(x))
        return self.head(F.conv2d(code, self.encode.weight.transpose(0, 1)))


def bounded(layer, x, weight, bias):
    return F.conv2d(x.tanh(), weight, bias)


@pytest.mark.parametrize("owner", ["nobody", "layer", "class"])
def test_a_replaced_function_of_a_layer_sees_its_input(owner, monkeypatch):
    model, x = Autoencoder().double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    if owner == "layer":
        model.encode._conv_forward = functools.partial(bounded, None)
    if owner == "class":
        monkeypatch.setattr(nn.Conv2d, "_conv_forward", bounded)
    snapped, narrow = halved(model, (x,))
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64: sums of two columns
