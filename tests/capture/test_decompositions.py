"""Opened layers compute what PyTorch's own code computes, on its fused path and on its plain one."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from helpers.couplings.cases import randomise
from torch import nn

from fxprune.capture import attention
from fxprune.capture.decompositions import decomposition
from fxprune.capture.trace import WAY, capture
from fxprune.passes.verify.outputs import named_outputs, relative_error

INF = float("-inf")
N, L, S, E = 2, 5, 4, 8


def mha(**options):
    return nn.MultiheadAttention(E, 2, **{"batch_first": True, **options})


def blocked(*shape):
    """A mask that leaves the first source to everybody."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4
    mask[..., 0] = False
    return mask


def added(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def causal(length):
    return nn.Transformer.generate_square_subsequent_mask(length, dtype=torch.float64)


class Given(nn.Module):
    """A layer with inputs by place, tensors kept as buffers by name, and other options; one input may serve thrice."""

    def __init__(self, layer, options, times=1):
        super().__init__()
        self.layer, self.times, self.names = layer, times, [n for n, v in options.items() if torch.is_tensor(v)]
        self.options = {name: value for name, value in options.items() if not torch.is_tensor(value)}
        for name in self.names:
            self.register_buffer(name, options[name])

    def forward(self, *inputs):
        tensors = {name: getattr(self, name) for name in self.names}
        return self.layer(*inputs * self.times, **self.options, **tensors)


class Cosine(nn.Module):
    """Options of the function."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, x, y):
        return F.cosine_similarity(x, y, **self.options)


class Functional(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.m, self.options = nn.MultiheadAttention(E, 2), options

    def forward(self, q, k):
        m = self.m
        return F.multi_head_attention_forward(
            q, k, k, E, 2, m.in_proj_weight, m.in_proj_bias, m.bias_k, m.bias_v, m.add_zero_attn, 0.0,
            m.out_proj.weight, m.out_proj.bias, **self.options
        )  # fmt: skip


X, Y = (N, L, E), (N, S, E)
ONCE, CROSS = (X,), (X, Y, Y)
# Layer, options of the call, shapes of the inputs.
CASES = {
    "self": (mha(), {}, ONCE),
    "self, no weights": (mha(), {"need_weights": False}, ONCE),
    "self, weights per head": (mha(), {"average_attn_weights": False}, ONCE),
    "self, sequence first": (mha(batch_first=False), {}, ONCE),
    "self, unbatched": (mha(), {}, ((L, E),)),
    "self, unbatched, sequence first": (mha(batch_first=False), {"need_weights": False}, ((L, E),)),
    "self, an odd number of heads": (nn.MultiheadAttention(9, 3, batch_first=True), {}, ((N, L, 9),)),
    "self, no bias": (mha(bias=False), {}, ONCE),
    "cross": (mha(), {}, CROSS),
    "cross, sequence first": (mha(batch_first=False), {"need_weights": False}, ((L, N, E), (S, N, E), (S, N, E))),
    "cross, other widths": (mha(kdim=6, vdim=7), {}, (X, (N, S, 6), (N, S, 7))),
    "cross, other widths, no bias": (mha(kdim=6, vdim=7, bias=False), {}, (X, (N, S, 6), (N, S, 7))),
    "mask": (mha(), {"attn_mask": blocked(L, L)}, ONCE),
    "mask, no weights": (mha(), {"attn_mask": blocked(L, L), "need_weights": False}, ONCE),
    "mask per head": (mha(), {"attn_mask": blocked(2 * N, L, L)}, ONCE),
    "mask per head, unbatched": (mha(), {"attn_mask": added(2, L, L), "need_weights": False}, ((L, E),)),
    "added mask": (mha(), {"attn_mask": added(L, S)}, CROSS),
    "added mask, no weights": (mha(), {"attn_mask": added(L, S), "need_weights": False}, CROSS),
    "padding": (mha(), {"key_padding_mask": blocked(N, S)}, CROSS),
    "padding, unbatched": (mha(), {"key_padding_mask": blocked(S)}, ((L, E), (S, E), (S, E))),
    "padding and mask": (mha(), {"key_padding_mask": blocked(N, S), "attn_mask": blocked(L, S)}, CROSS),
    "added padding and mask": (mha(), {"key_padding_mask": added(N, S), "attn_mask": added(L, S)}, CROSS),
    "causal": (mha(), {"attn_mask": causal(L), "is_causal": True, "need_weights": False}, ONCE),
    "causal with weights": (mha(), {"attn_mask": causal(L), "is_causal": True}, ONCE),
    "causal with padding": (
        mha(),
        {"attn_mask": causal(L), "is_causal": True, "need_weights": False, "key_padding_mask": added(N, L)},
        ONCE,
    ),
    "encoder layer": (nn.TransformerEncoderLayer(E, 2, 16, batch_first=True), {}, ONCE),
    "encoder layer, sequence first": (nn.TransformerEncoderLayer(E, 2, 16), {}, ONCE),
    "encoder layer, norm first": (
        nn.TransformerEncoderLayer(E, 2, 16, batch_first=True, norm_first=True, activation="gelu"),
        {"src_mask": blocked(L, L)},
        ONCE,
    ),
    "encoder": (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(E, 2, 16, batch_first=True), 2, nn.LayerNorm(E)),
        {"mask": causal(L)},
        ONCE,
    ),
    "encoder, padding, not packed": (
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(E, 2, 16, batch_first=True), 2, enable_nested_tensor=False
        ),
        {"src_key_padding_mask": blocked(N, L)},
        ONCE,
    ),
    "decoder": (
        nn.TransformerDecoder(nn.TransformerDecoderLayer(E, 2, 16, batch_first=True), 2, nn.LayerNorm(E)),
        {"tgt_mask": causal(L), "memory_key_padding_mask": blocked(N, S)},
        (X, Y),
    ),
    "transformer": (nn.Transformer(E, 2, 1, 2, 16, batch_first=True), {"tgt_mask": causal(S)}, (X, Y)),
}  # fmt: skip


@functools.cache
def opened(name):
    """The graph, the network and its inputs."""
    layer, options, shapes = CASES[name]
    times = 3 if isinstance(layer, nn.MultiheadAttention) and len(shapes) == 1 else 1
    net = randomise_but_masks(Given(layer, options, times))
    inputs = tuple(added(*shape) for shape in shapes)
    return capture(net, inputs), net, inputs


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("grad", [False, True], ids=["fused", "plain"])
def test_an_opened_layer_computes_what_the_layer_computes(name, grad):
    graph, net, inputs = opened(name)
    assert not any(isinstance(module, type(CASES[name][0])) for module in graph.modules())
    with torch.set_grad_enabled(grad):
        assert_same(graph(*inputs), net(*inputs))


@pytest.mark.parametrize("name", ["self", "mask, no weights", "cross, other widths", "encoder", "decoder"])
def test_a_layer_opens_as_the_whole_network_too(name):
    layer, _, shapes = CASES[name]
    net, inputs = randomise_but_masks(layer), tuple(added(*shape) for shape in shapes)
    inputs = inputs * 3 if isinstance(layer, nn.MultiheadAttention) and len(shapes) == 1 else inputs
    assert_same(capture(net, inputs)(*inputs), net(*inputs))


@pytest.mark.parametrize("options", [{}, {"need_weights": False}, {"attn_mask": causal(L)[:, :S], "training": False}])
def test_the_function_opens_too(options):
    net, inputs = randomise_but_masks(Functional(**options)), (added(L, N, E), added(S, N, E))
    graph = capture(net, inputs)
    assert not any(node.target is F.multi_head_attention_forward for node in graph.graph.nodes)
    assert_same(graph(*inputs), net(*inputs))


@pytest.mark.parametrize(
    ("other", "options"),
    [
        ((2, 8, 4, 4), {}),
        ((1, 8, 1, 1), {}),
        ((8, 1, 1), {}),  # dimension 1 of both together is dimension 0 of this one
        ((8, 1, 1), {"dim": -3, "eps": 0.5}),
        ((1, 4), {"dim": 2}),
        ((2, 1, 1, 1), {}),  # as long as eight equal numbers
    ],
)
def test_cosine_similarity_broadcasts_as_the_function_does(other, options):
    net, inputs = Cosine(**options), (added(2, 8, 4, 4), added(*other))
    graph = capture(net, inputs)
    assert not any(node.target is F.cosine_similarity for node in graph.graph.nodes)
    assert_same(graph(*inputs), net(*inputs))


def test_plain_tracing_suffices_without_masks():
    for name in ("self", "cross", "encoder layer", "encoder layer, norm first"):
        layer, _, shapes = CASES[name]
        net = Given(layer, {}, 3 if name == "self" else 1)
        assert capture(net, tuple(map(torch.zeros, shapes))).meta[WAY] == "symbolic", name


PADDED = {"src_key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])}
STAY = {
    "keys appended": (mha(add_bias_kv=True), {}),
    "zeros appended": (mha(add_zero_attn=True), {}),
    "padding is packed": (nn.TransformerEncoder(nn.TransformerEncoderLayer(E, 2, 16, batch_first=True), 2), PADDED),
}  # fmt: skip


@pytest.mark.parametrize("name", STAY)
def test_what_computes_something_else_stays_whole(name):
    layer, options = STAY[name]
    times = 3 if "appended" in name else 1
    net, x = randomise_but_masks(Given(layer, options, times)), added(*X)
    assert [type(m) for m in capture(net, (x,)).modules() if isinstance(m, type(layer))] == [type(layer)]


def test_a_derived_class_with_a_forward_of_its_own_is_another_layer():
    class Own(nn.MultiheadAttention):
        def forward(self, x):
            return x

    class Same(nn.MultiheadAttention):
        pass

    assert decomposition(Own(E, 2)) is None
    assert decomposition(Same(E, 2)) is not None


def test_a_hint_without_the_mask_is_refused():
    with pytest.raises(RuntimeError, match="is_causal needs attn_mask"):
        attention.attention(mha(), *[torch.zeros(X)] * 3, is_causal=True)


def randomise_but_masks(net):
    masks = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net = randomise(net, 0)
    for name, buffer in net.named_buffers():
        buffer.copy_(masks[name])
    return net


def assert_same(found, wanted):
    found, wanted = named_outputs(found), named_outputs(wanted)
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert relative_error(value, wanted[name]) < 1e-12  # sums in another order, some 1e-16 each
