"""Factors of narrowed heads lie in weights: a network built narrow by hand from the same class computes the same."""

from __future__ import annotations

import operator

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.rewrites.merges import attention, halved, heads, merged, narrow_snapped
from samples import linear
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import fxprune
from fxprune.errors import PlanError
from fxprune.passes.merge.expand import expand
from fxprune.passes.rewrite.narrow import absorb

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def vit(width, **options):
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "depth": 2, "num_classes": 7, "num_heads": 2, **options}
    return VisionTransformer(embed_dim=width, **options).eval()


@pytest.fixture
def fused(request):
    before = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(request.param)
    yield
    timm.layers.set_fused_attn(before)


@pytest.mark.parametrize("fused", [True, False], indirect=True, ids=["fused", "matmul"])
@pytest.mark.parametrize("options", [{}, {"qk_norm": True}], ids=["plain", "normed queries"])
def test_a_network_built_by_hand_takes_the_narrow_weights(fused, options):
    model = vit(64, **options).double()
    snapped, narrow = halved(model, IMAGES.double())
    by_hand = vit(32, **options).double()
    by_hand.load_state_dict(narrow.state_dict())
    # float64: sums of two columns, and a factor of 2 ** 0.5 in other places.
    torch.testing.assert_close(narrow(IMAGES.double()), snapped(IMAGES.double()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(by_hand(IMAGES.double()), snapped(IMAGES.double()), rtol=1e-12, atol=1e-12)


def attend(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def plain(s, x):
    x = s.stem(x)
    return s.head(s.o(merged(attend(heads(s.q(x)), heads(s.k(x)), heads(s.v(x))))).mean(1))


def divided(s, x):
    x = s.stem(x)
    weights = (heads(s.q(x)) @ heads(s.k(x)).mT / 8**0.5).softmax(-1)
    return s.head(s.o(merged(weights @ heads(s.v(x)))).mean(1))


def scaled_first(s, x):
    x = s.stem(x)
    weights = (heads(s.q(x) * 8**-0.5) @ heads(s.k(x)).mT).softmax(-1)
    return s.head(s.o(merged(weights @ heads(s.v(x)))).mean(1))


def unscaled(s, x):
    x = s.stem(x)
    weights = (heads(s.q(x)) @ heads(s.k(x)).mT * 0.1).softmax(-1)
    return s.head(s.o(merged(weights @ heads(s.v(x)))).mean(1))


def queries_seen_elsewhere(s, x):
    x = s.stem(x)
    q = s.q(x)
    return s.head((s.o(merged(attend(heads(q), heads(s.k(x)), heads(s.v(x))))) + s.o(q)).mean(1))


def of_one_layer(s, x):
    x = s.stem(x)
    return s.head(s.o(merged(attend(heads(s.q(x)), heads(s.q(x)), heads(s.v(x))))).mean(1))


def times(name):
    def forward(s, x):
        x = s.n(s.stem(x))
        return s.head(s.o(merged(attend(heads(s.q(x) * getattr(s, name)), heads(s.k(x)) ** 3, heads(s.v(x))))).mean(1))

    return forward


def gelu_between(s, x):
    x = s.stem(x)
    return s.head(s.o(merged(attend(F.gelu(heads(s.q(x))), F.gelu(heads(s.k(x))), heads(s.v(x))))).mean(1))


def over_channels(change):
    """Linear attention: the sum over channels lacks the factor that their softmax has too much, unless changed."""

    def forward(s, x):
        x = s.stem(x)
        context = heads(s.k(x)).softmax(-2).mT @ heads(s.v(x))
        return s.head(s.o(merged(change(heads(s.q(x)).softmax(-1)) @ context)).mean(1))

    return forward


def over_channels_from_the_right(s, x):
    x = s.stem(x)
    context = heads(s.k(x)).softmax(-2).mT @ heads(s.v(x))
    return s.head(s.o(merged((context.mT @ s.drop(heads(s.q(x)).softmax(-1)).transpose(-1, -2)).mT)).mean(1))


# Whether the factor goes into weights.
ABSORBED = {
    "softmax over channels": (over_channels(lambda q: q.transpose(1, 2).transpose(1, 2)), True),
    "softmax over channels, dropped": (over_channels(lambda q: F.dropout(q, 0.5, False)), True),
    "softmax over channels, from the right": (over_channels_from_the_right, True),
    "softmax over channels, squared": (over_channels(lambda q: q.square()), False),
    "plain": (plain, True),
    "divided": (divided, True),
    "a scale of its own": (unscaled, True),
    "queries seen elsewhere": (queries_seen_elsewhere, True),
    "queries and keys of one layer": (of_one_layer, False),
    "gelu between": (gelu_between, False),
    "times a buffer": (times("b"), False),
    "times the weight of a norm by another name": (times("g"), False),
}


@pytest.mark.parametrize("name", ABSORBED)
def test_what_is_absorbed_and_what_is_not_are_both_exact(name):
    forward, absorbed = ABSORBED[name]
    norm = nn.LayerNorm(16)
    model = attention(forward, drop=nn.Dropout(), n=norm, g=norm.weight)
    model.register_buffer("b", torch.rand(16).double())
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    snapped, narrow = halved(model, x)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64
    assert narrow.meta["factors"] == (0 if absorbed else 1)
    with_factors = halved(model, x, absorb=False)[1]
    assert with_factors.meta["factors"] == 1
    torch.testing.assert_close(with_factors(x), snapped(x), rtol=1e-12, atol=1e-12)
    assert absorb(with_factors, with_factors.meta["plan"]) == absorbed
    assert (with_factors.meta["factors"], with_factors.meta["absorbed"]) == (1 - absorbed, absorbed)
    torch.testing.assert_close(with_factors(x), narrow(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("forward", "scale"), [(divided, (operator.truediv, 4**0.5)), (scaled_first, (operator.mul, 4**-0.5))]
)
def test_a_scale_beside_the_product_is_that_of_the_narrow_heads(forward, scale):
    narrow = halved(attention(forward), torch.randn(2, 5, 6).double())[1]
    times = (operator.mul, operator.truediv)
    found = [(node.target, node.args[1]) for node in narrow.graph.nodes if node.target in times]
    assert found == [(scale[0], pytest.approx(scale[1]))]


def test_how_many_factors_are_in_weights_stays_unknown():
    """As of a network that a version stored which did not count them."""
    narrow = halved(attention(plain), torch.randn(2, 5, 6).double(), absorb=False)[1]
    narrow.meta["absorbed"] = None
    assert absorb(narrow, narrow.meta["plan"]) == 1
    assert narrow.meta["absorbed"] is None


def one_after_another(s, x):
    x = s.stem(x)
    first = (heads(s.q(x)) @ heads(s.k(x)).mT / 8**0.5).softmax(-1) @ heads(s.v(x))
    second = (heads(s.p(merged(first))) @ heads(s.r(x)).mT).softmax(-1) @ heads(s.t(x))
    return s.head(s.o(merged(second)).mean(1))


def test_the_scale_of_an_earlier_product_is_not_that_of_a_later_one():
    model = attention(one_after_another, p=linear(16, 16), r=linear(16, 16), t=linear(16, 16))
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    coupling = fxprune.couple(model, x)
    plan = fxprune.plan(coupling, keep=0.5, method="even", freeze=["q.weight", "k.weight"])
    narrow, snapped = narrow_snapped(model, plan), fxprune.snap(model, plan)
    assert narrow.meta["absorbed"] == 1
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64


def test_nothing_of_the_wide_network_is_changed():
    model = vit(64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    halved(model, IMAGES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_factor_of_a_wrong_ratio_would_show():
    model, x = attention(plain), torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    snapped, narrow = halved(model, x)
    with torch.no_grad():
        narrow.q.weight *= 2**0.5
    assert not fxprune.verify(snapped, narrow, x, tolerance=1e-9).passed


def test_a_wide_network_is_lifted_from_one_with_factors_in_its_graph_only():
    model, x = attention(plain), torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    plan = fxprune.plan(fxprune.couple(model, x), keep=0.5, method="even")
    narrow = narrow_snapped(model, plan, absorb=False)
    narrow.head.bias.data += 1  # it is not cut, and trained further
    torch.testing.assert_close(expand(model, narrow, plan)(x), narrow(x), rtol=1e-12, atol=1e-12)  # float64
    with pytest.raises(PlanError, match="factors of its heads in weights"):
        expand(model, narrow_snapped(model, plan), plan)
    del narrow.stem.weight
    with pytest.raises(PlanError, match=r"`stem.weight` is absent"):
        expand(model, narrow, plan)


def test_a_fused_scale_of_its_own_stays():
    """A network of the same class that is built narrow states this number, too."""

    def forward(s, x):
        x = s.stem(x)
        q, k, v = (heads(layer(x)) for layer in (s.q, s.k, s.v))
        return s.head(s.o(merged(F.scaled_dot_product_attention(q, k, v, scale=0.3))).mean(1))

    snapped, narrow = halved(attention(forward), x := torch.randn(2, 5, 6).double())
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64
    assert [node.kwargs["scale"] for node in narrow.graph.nodes if "scale" in node.kwargs] == [pytest.approx(0.3)]


def test_factors_that_are_in_the_weights_stay_there_when_a_network_is_narrowed_again():
    model, x = attention(plain), torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    snapped, narrow = halved(halved(model, x)[1], x)
    assert (narrow.meta["absorbed"], narrow.meta["factors"]) == (2, 0)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64


def test_shared_weights_are_left_alone():
    model = attention(plain)
    model.k.weight = nn.Parameter(model.q.weight.detach().clone())
    model.q.weight = model.k.weight
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    snapped, narrow = halved(model, x)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64


BROADCAST = {
    "scale": (lambda s, x: s.scale * s.q(x), (1,)),
    "bias": (lambda s, x: F.linear(x, s.q.weight, s.scale), (1,)),
    "bias of columns": (lambda s, x: torch.addmm(s.scale, x.flatten(0, 1), s.matrix).unflatten(0, x.shape[:2]), (1,)),
    "row of biases": (lambda s, x: torch.addmm(s.scale, x.flatten(0, 1), s.matrix).unflatten(0, x.shape[:2]), (1, 16)),
}


@pytest.mark.parametrize("name", BROADCAST)
def test_a_number_that_all_channels_share_takes_no_factor(name):
    make, shape = BROADCAST[name]

    def forward(s, x):
        x = s.stem(x)
        weights = (heads(make(s, x)) @ heads(s.k(x)).mT).softmax(-1)
        return s.head(s.o(merged(weights @ heads(s.v(x)))).mean(1))

    model = attention(
        forward, scale=nn.Parameter(torch.rand(shape) + 0.5), matrix=nn.Parameter(torch.randn(16, 16) / 4)
    )
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    snapped, narrow = halved(model, x)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64
