"""The settings of a layer construct it again, and are as short as a person would write them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxprune.passes.lowering import layer_settings, short_settings

SHORT = [
    (nn.Conv2d(3, 8, (3, 3), (2, 2), padding=1), {"kernel_size": 3, "stride": 2, "padding": 1}),
    (nn.Conv2d(4, 8, (3, 1), groups=2, bias=False), {"kernel_size": (3, 1), "groups": 2, "bias": False}),
    (nn.Conv1d(3, 4, 5, padding="same", padding_mode="circular"), {"padding": "same", "padding_mode": "circular"}),
    (nn.ConvTranspose2d(4, 8, 2, 2, output_padding=1, dilation=2), {"output_padding": 1, "dilation": 2}),
    (nn.Linear(3, 4, bias=False), {"in_features": 3, "out_features": 4, "bias": False}),
    (nn.BatchNorm2d(8, eps=1e-3, momentum=None), {"num_features": 8, "eps": 1e-3, "momentum": None}),
    (nn.BatchNorm2d(8, affine=False), {"num_features": 8, "affine": False}),
    (nn.LayerNorm((4, 8), bias=False), {"normalized_shape": (4, 8), "bias": False}),
    (nn.LayerNorm(8), {"normalized_shape": 8}),
    (nn.GroupNorm(2, 8), {"num_groups": 2, "num_channels": 8}),
    (nn.PReLU(8, init=0.5), {"num_parameters": 8}),
    (nn.MaxPool2d((2, 2), return_indices=True), {"kernel_size": (2, 2), "return_indices": True}),
    (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), {"scale_factor": 2.0, "align_corners": True}),
    (nn.Embedding(10, 4, padding_idx=2), {"num_embeddings": 10, "padding_idx": 2}),
    (nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2), {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
    (nn.RNN(3, 4, nonlinearity="relu"), {"nonlinearity": "relu"}),
    (nn.MultiheadAttention(8, 2, bias=False, add_bias_kv=True), {"bias": False, "add_bias_kv": True}),
    (nn.ReLU6(), {}),
    (nn.Identity(3, some="word"), {}),
]


@pytest.mark.parametrize(("layer", "among"), SHORT, ids=lambda each: str(each).replace("\n", "")[:40])
def test_settings_construct_the_layer_again(layer, among):
    settings = short_settings(layer)
    assert settings | among == settings
    for each in (settings, layer_settings(layer)):
        twin = type(layer)(**each)
        assert str(twin) == str(layer)
        twin.load_state_dict(layer.state_dict())


def hooked():
    layer = nn.ReLU()
    layer.register_forward_hook(lambda *_: None)
    return layer


def resized():
    layer = nn.Linear(3, 4)
    layer.weight = nn.Parameter(torch.zeros(4, 5))
    return layer


def changed():
    layer = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    layer.padding_mode = "another"
    return layer


@pytest.mark.parametrize(
    ("layer", "why"), [(hooked(), "a hook"), (resized(), "another `weight`"), (changed(), "another `constructor`")]
)
def test_what_no_argument_states_is_refused(layer, why):
    with pytest.raises(ValueError, match=why):
        layer_settings(layer)
