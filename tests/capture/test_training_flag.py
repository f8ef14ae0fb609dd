"""The graph follows its training flag where the model does, and stops where it cannot."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from samples import Net, conv, linear
from torch import nn
from torch.nn.utils.parametrize import register_parametrization
from torchvision.ops import StochasticDepth

from fxprune.arguments.guards import SpecialisedError
from fxprune.capture.trace import capture
from fxprune.equivalence.observation import Certain


def test_layers_that_act_in_training_only_keep_their_flag():
    model = Net(lambda s, x: s.drop(s.a(x)), a=conv(3, 8), drop=StochasticDepth(1.0, "batch"))
    captured = capture(model, (torch.zeros(2, 3, 8, 8),))
    images = torch.randn(2, 3, 8, 8)
    assert captured(images).any()
    assert not captured.train()(images).any()


def fused(s, x):
    q, k, v = s.qkv(x).chunk(3, -1)
    return s.out(F.scaled_dot_product_attention(q, k, v, dropout_p=0.5 if s.training else 0.0))


BY_MODE = {
    "fused attention": (fused, 1),
    "a flag": (lambda s, x: s.out(F.dropout(s.qkv(x), 0.5, s.training)[..., :8]), 1),
    "two numbers in a list": (lambda s, x: s.out(F.pad(s.qkv(x)[..., :8], [0, 0, int(s.training), 1 + s.training])), 2),
    "a size decided": (lambda s, x: s.out(F.dropout(s.qkv(x), 0.1 * (len(x) > 1), s.training)[..., :8]), 1),
    "the attention of PyTorch": (lambda s, x: s.attention(x, x, x)[0] * s.out(x).sum(), 1),
}


@pytest.mark.parametrize("name", BY_MODE)
def test_numbers_chosen_by_the_training_flag_follow_the_flag_of_the_graph(name):
    forward, numbers = BY_MODE[name]
    attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    model = Net(forward, qkv=linear(8, 24), out=linear(8, 8), attention=attention)
    tokens = torch.randn(2, 5, 8)
    captured = capture(model, (tokens,))
    assert len([node for node in captured.graph.nodes if "by_mode" in str(node.target)]) == numbers
    for training in (True, False, True):
        model.train(training)
        captured.train(training)
        results = []
        for module in (model, captured):
            torch.manual_seed(0)
            results.append(module(tokens))
        # PyTorch's own attention in eval mode is another kernel; rounding in float32.
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_flags_in_a_list_of_layers_are_followed():
    class Block(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5, self.training)

    model = Net(
        lambda s, x: s.out(s.blocks[1](s.blocks[0](x))), blocks=nn.ModuleList([Block(), Block()]), out=linear(8, 8)
    )
    captured = capture(model, (torch.ones(2, 8),)).train()
    assert len([node for node in captured.graph.nodes if "by_mode" in str(node.target)]) == 2


def test_an_encoder_is_trained_with_the_dropout_of_its_attention():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    model, tokens = (
        Net(lambda s, x: s.out(s.encoder(x)), encoder=nn.TransformerEncoder(layer, 2), out=linear(8, 8)),
        torch.randn(2, 5, 8),
    )
    captured = capture(model, (tokens,))
    with torch.no_grad(), Certain():
        torch.testing.assert_close(captured.train()(tokens), model.train()(tokens), rtol=1e-5, atol=1e-5)  # float32


def test_a_weight_that_is_drawn_in_training_is_not_trained_narrow():
    class Noise(nn.Module):
        def forward(self, weight):
            return weight + torch.randn_like(weight) if self.training else weight

    model = Net(lambda s, x: s.b(s.a(x)), a=conv(3, 8), b=conv(8, 4))
    register_parametrization(model.b, "weight", Noise())
    images = torch.randn(2, 3, 8, 8)
    captured = capture(model.eval(), (images,))
    assert torch.equal(captured(images), model(images))
    with pytest.raises(SpecialisedError, match=r"parametrization of `b.weight` draws random numbers"):
        captured.train()(images)


def test_where_training_takes_another_path_the_graph_stops_in_training():
    model = Net(lambda s, x: s.a(x).relu() if s.training else s.a(x), a=conv(3, 8))
    images = torch.randn(2, 3, 8, 8)
    captured = capture(model, (images,))
    assert torch.equal(captured.eval()(images), model.eval()(images))
    with pytest.raises(SpecialisedError, match="does something else in training mode: output 0 differs"):
        captured.train()(images)


def test_the_training_flag_is_an_attribute_again_after_a_capture():
    capture(Net(fused, qkv=linear(8, 24), out=linear(8, 8)), (torch.zeros(2, 5, 8),))
    assert "training" not in vars(nn.Module)
