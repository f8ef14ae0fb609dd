"""Attributes that a model sets in tensors: in what it computes they are followed, elsewhere they are refused."""

from __future__ import annotations

import pytest
import torch
from samples.table import Net, conv, linear
from torch import nn

import fxprune
from fxprune.errors import CaptureError

IMAGES = torch.randn(2, 3, 6, 6)


class Merge(nn.Module):
    """Add what another layer left at a tensor, as fastai's `MergeLayer`."""

    def forward(self, x):
        return x + x.orig


def carried(s, x):
    """Hand the input of a chain to its last layer, as fastai's `SequentialEx`."""
    x = y = s.a(x)
    for layer in (s.b, s.relu, s.merge):
        y.orig = x
        z = layer(y)
        y.orig = z.orig = None
        y = z
    return s.head(y.mean((2, 3)))


def at_the_input(s, x):
    x.orig = s.a(x)
    y = s.b(x.orig) + x.orig
    x.orig = None
    return s.head(y.mean((2, 3)))


def asked_for(s, x):
    y = s.a(x)
    y.scale, z = 2.0, s.b(y)
    y = z * 3 if hasattr(z, "scale") else z * y.scale
    return s.head(y.mean((2, 3)))


def taken_away(s, x):
    y = s.a(x)
    setattr(y, "scale", 2.0)  # noqa: B010 (a name that is computed, say)
    scale = y.scale
    del y.scale
    return s.head((s.b(y) * scale * getattr(y, "scale", 3.0)).mean((2, 3)))


def net(forward):
    return Net(forward, a=conv(3, 8), b=conv(8, 8), relu=nn.ReLU(), merge=Merge(), head=linear(8, 4)).eval()


@pytest.mark.parametrize("forward", [carried, at_the_input, asked_for, taken_away])
def test_attributes_of_what_is_computed_are_followed(forward):
    model = net(forward)
    coupling = fxprune.couple(model, (IMAGES,))
    assert coupling.groups and "b" in coupling.nodes, "exported"
    x = torch.randn(3, 3, 7, 5)
    torch.testing.assert_close(coupling.graph_module(x), model(x), rtol=0, atol=0)  # the same operations


def at_an_output(s, x):
    y = s.head(s.a(x).mean((2, 3)))
    y.tag = "kept"
    return y


def left_at_the_input(s, x):
    x.calls = getattr(x, "calls", 0) + 1
    return s.head((s.a(x) * x.calls).mean((2, 3)))


def at_a_parameter(s, x):
    s.a.weight.calls = getattr(s.a.weight, "calls", 0) + 1
    return s.head((s.a(x) * s.a.weight.calls).mean((2, 3)))


def of_pytorch(s, x):
    y = s.a(x)
    y.requires_grad = False
    return s.head(y.mean((2, 3)))


REFUSED = {at_an_output: "tag", left_at_the_input: "calls", at_a_parameter: "calls", of_pytorch: "requires_grad"}


@pytest.mark.parametrize("forward", REFUSED)
def test_an_attribute_that_outlives_the_call_is_refused_by_its_line(forward):
    reason = rf"test_tensor_attributes.py:\d+ .* sets the attribute `{REFUSED[forward]}`"
    with pytest.raises(CaptureError, match=reason):
        fxprune.couple(net(forward), (IMAGES,))


def test_an_attribute_of_an_output_is_refused_where_no_trace_shows_it():
    def forward(s, x):
        y = s.head(s.a(x).mean((2, 3)))
        same = nn.functional.dropout(y, 0.5, training=s.training)  # the tensor itself in eval mode
        y.tag = "kept"
        return same

    with pytest.raises(CaptureError, match="sets the attribute `tag` of an input or output"):
        fxprune.couple(net(forward), (IMAGES,))


@pytest.mark.parametrize("where", ["buffer", "attribute"])
def test_an_attribute_that_a_stored_output_had_before_is_no_effect_of_the_call(where):
    places = torch.arange(4.0)
    places._is_initialized = True  # as `transformers` notes
    model = net(lambda s, x: (s.head(s.b(s.a(x)).mean((2, 3))), s.places))
    if where == "buffer":
        model.register_buffer("places", places)
    else:
        model.places = places
    assert "b" in fxprune.couple(model, (IMAGES,)).nodes


def test_parameters_of_copies_and_of_narrow_networks_keep_their_attributes():
    def forward(s, x):
        return s.head((s.b(s.a(x).relu()) * s.a.weight.scale).mean((2, 3)))

    model = net(forward).double()
    model.a.weight.scale, model.a.weight.mask, model.head.bias._no_weight_decay = 3.0, torch.ones(8), True
    coupling = fxprune.couple(model, (IMAGES.double(),))
    plan = fxprune.plan(coupling, keep=0.5)
    snapped = fxprune.snap(model, plan)
    narrow = fxprune.narrow(snapped, plan)
    for network in (snapped, narrow):
        tensors = dict(network.named_parameters())
        assert vars(tensors["a.weight"]) == {"scale": 3.0}, "a mask has the wide shape"
        assert vars(tensors["head.bias"]) == {"_no_weight_decay": True}
    torch.testing.assert_close(narrow(IMAGES.double()), snapped(IMAGES.double()), rtol=1e-9, atol=1e-12)  # float64
