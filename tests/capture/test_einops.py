"""Networks in the notation of einops are traced like any other: no operation of it hides a width or a size."""

from __future__ import annotations

import pytest
import torch
from samples.table import Net, free, linear

import fxprune

einops = pytest.importorskip("einops")
layers = pytest.importorskip("einops.layers.torch")
HEADS = "b n (three h d) -> three b h n d"


def _attention(s, y):
    q, k, v = einops.rearrange(s.qkv(y), HEADS, three=3, h=2)
    scores = einops.einsum(q, k, "b h n d, b h m d -> b h n m").softmax(-1)
    return einops.rearrange(scores @ v, "b h n d -> b n (h d)")


def _packed(s, y):
    tokens, shapes = einops.pack([einops.repeat(s.p, "1 1 d -> b 1 d", b=y.shape[0]), y], "b * d")
    first, rest = einops.unpack(tokens.relu(), shapes, "b * d")
    return rest + first + einops.reduce(tokens, "b n d -> b 1 d", "mean")


def _windows(s, y):
    z = einops.rearrange([y, y.relu()], "two b n d -> b n two d")
    z = einops.rearrange(z, "b (h w) ... -> b h w ...", h=2)
    return einops.rearrange(z, "b h w ... -> b (h w) ...", **einops.parse_shape(z, "_ h w _ _")).sum(2)


def _in_layers(s, y):
    return s.back(s.split(y).relu()) + s.mean(y)[:, None]


CASES = {
    "attention": (_attention, {"a.weight": 8, "qkv.weight": 4}, {"qkv": linear(8, 24)}),
    "packed": (_packed, {"p": 8}, {"p": free(1, 1, 8)}),
    "windows": (_windows, {"a.weight": 8}, {}),
    "layers": (
        _in_layers,
        {"a.weight": 4},
        {
            "split": layers.Rearrange("b n (h d) -> b h n d", h=2),
            "back": layers.Rearrange("b h n d -> b n (h d)"),
            "mean": layers.Reduce("b n d -> b d", "mean"),
        },
    ),
    "mixed": (
        lambda s, y: s.mix(y),
        {"a.weight": 8, "mix.weight": 6},
        {"mix": layers.EinMix("b n c -> b n d", weight_shape="c d", bias_shape="d", c=8, d=6), "head": linear(6, 4)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_both_oracles_hold_and_sizes_stay_open(name):
    op, widths, parts = CASES[name]
    net = Net(lambda s, x: s.head(op(s, s.a(x))), **{"a": linear(3, 8), "head": linear(8, 4), **parts}).eval()
    proof = fxprune.prove(net, torch.zeros(2, 6, 3))
    assert proof.passed, proof
    assert {group.name: group.width for group in proof.plan.coupling.groups.values()} == widths
    snapped = fxprune.snap(net, proof.plan)
    longer = torch.randn(3, 8, 3)
    assert torch.allclose(fxprune.narrow(snapped, proof.plan)(longer), snapped(longer), atol=1e-5)
