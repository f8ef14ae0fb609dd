from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.networks.middle import Small
from helpers.rewrites.merges import narrow_unequal
from samples import SAMPLES, Net, conv, free, linear
from torch import nn

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.costs import cost
from fxprune.passes.merge.concentrate import captured_with
from fxprune.passes.verify.outputs import relative_error

IMAGE = torch.zeros(2, 3, 8, 8)
FOLDED = {
    "computed weight": {"w"},
    "computed weight in a layer": {"c.weight"},
    "computed weight, read twice": {"c.weight"},
    "computed weight whose sizes are read": {"w"},
    "computed weight that is viewed": {"w"},
    "divided by all channels": {"w", "v"},
    "scaled columns": {"w"},
    "weight norm": {"c.parametrizations.weight.original1"},
    "computed weight, stored one used too": set(),  # the stored one would have to be there as well
    "weights put together": set(),  # no stored one has the shape
    "functional": set(),  # stored as it is
}


def net(weight, **more):
    """Two layers around one whose weight is computed from ``w``."""

    def forward(s, x):
        return s.head(F.conv2d(s.a(x), weight(s)).relu().mean((2, 3)))

    return Net(forward, a=conv(3, 8), w=free(6, 8, 3, 3), head=linear(6, 4), **more).eval()


def centred(s):
    return (s.w - s.w.mean((1, 2, 3), keepdim=True)) * s.gain


@pytest.mark.parametrize("name", FOLDED)
def test_what_is_folded(name):
    sample = SAMPLES[name]
    assert set(fxprune.couple(sample.net, sample.inputs).functions) == FOLDED[name]


DRAWN = {
    "as a function": lambda s: s.w * torch.rand_like(s.w),
    "dropped": lambda s: F.dropout(s.w, 0.5, training=True),
    "in place": lambda s: s.w * torch.empty_like(s.w).normal_(),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_weight_that_is_drawn_anew_in_every_call_is_not_stored(name):
    coupling = fxprune.couple(net(DRAWN[name]), IMAGE)
    assert not coupling.functions
    assert "a.weight" not in coupling.groups


def test_a_weight_that_training_computes_in_another_way_is_not_trained_in_silence():
    layers = conv(3, 8), torch.nn.utils.parametrizations.spectral_norm(conv(8, 6)), conv(6, 4)
    sequence = torch.nn.Sequential(*layers).eval()
    coupling = fxprune.couple(sequence, IMAGE)
    narrow = narrow_unequal(sequence, fxprune.plan(coupling, keep=0.5))
    assert "1.parametrizations.weight.original" in coupling.functions
    narrow(IMAGE)
    with pytest.raises(SpecialisedError, match=r"computes `1\.parametrizations.* remove parametrizations before"):
        narrow.train()(IMAGE)


def test_the_captured_graph_with_stored_weights_computes_the_same():
    model, x = net(centred, gain=free(6, 1, 1, 1)), torch.randn(2, 3, 8, 8)
    graph = captured_with(fxprune.couple(model, IMAGE), model)
    assert torch.equal(graph(x), model(x))  # the same operations on the same numbers


def with_rows(s, x):
    """A layer of a computed weight, and a table of rows that the last call kept."""
    if len(s.table) != x.shape[2]:
        s.table = torch.arange(x.shape[2], dtype=x.dtype)[:, None]
    return s.head((F.conv2d(s.a(x), centred(s), padding=1) + s.table).relu().mean((2, 3)))


def test_a_captured_graph_with_stored_weights_starts_with_the_table_of_the_example():
    layers = {"a": conv(3, 8), "w": free(6, 8, 3, 3), "gain": free(6, 1, 1, 1), "head": linear(6, 4)}
    model, x = Net(with_rows, **layers).eval(), torch.randn(2, 3, 8, 8)
    model.register_buffer("table", torch.zeros(1, 1), persistent=False)
    wanted = model(x)
    coupling = fxprune.couple(model, IMAGE)
    model(torch.randn(2, 3, 5, 5))
    assert coupling.functions and model.table.shape == (5, 1)
    assert torch.equal(captured_with(coupling, model)(x), wanted)


def test_rows_are_trained_where_they_are_stored_and_columns_merge_where_they_are_computed():
    torch.manual_seed(0)
    model, x = net(centred, gain=free(6, 1, 1, 1)), torch.randn(8, 3, 8, 8)
    plan = fxprune.plan(fxprune.couple(model, IMAGE), 0.5, method="even")
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with fxprune.csgd(model, plan, optimizer, 8.0) as hook:
        for _ in range(40):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        assert hook.deviation().largest < 1e-6  # 0.6 ** 40 = 1e-9, and float32
    with torch.no_grad():
        narrow = narrow_unequal(model, plan)
        assert narrow.get_parameter("w").shape == (3, 4, 3, 3)
        assert "gain" not in dict(narrow.named_parameters())
        assert relative_error(model(x), narrow(x)) < 1e-5  # float32, and the deviation that is left


def test_what_goes_into_a_computed_weight_counts_in_the_wide_network_only():
    model = net(centred, gain=free(6, 1, 1, 1))
    plan = fxprune.plan(fxprune.couple(model, IMAGE), 0.5, method="even")
    assert cost(plan.coupling).params == sum(p.numel() for p in model.parameters())
    assert cost(plan).params == sum(p.numel() for p in narrow_unequal(model, plan).parameters())


def test_a_weight_of_another_type_is_not_stored():
    """A complex weight made from two real ones has the shape of each, but not their type (Fourier operators)."""

    def forward(s, x):
        spectrum = torch.einsum("bct,cot->bot", torch.fft.rfft(s.a(x))[..., :3], torch.complex(s.w, s.v))
        return s.b(torch.fft.irfft(spectrum, n=8))

    model = Net(forward, a=nn.Conv1d(3, 8, 1), w=free(8, 6, 3), v=free(8, 6, 3), b=nn.Conv1d(6, 4, 1)).eval()
    proof = fxprune.prove(model, torch.zeros(2, 3, 8))
    assert not proof.plan.coupling.functions
    assert proof.passed, proof


def test_a_product_of_any_rank_is_added_to_the_weight_once():
    """Of weights from which another one is stored, the narrow network keeps none (LoRA)."""

    def forward(s, x):
        return s.head(F.linear(s.a(x), s.w + s.up @ s.down))

    parts = {"w": free(6, 8), "up": free(6, 20), "down": free(20, 8)}
    coupling = fxprune.couple(Net(forward, a=linear(3, 8), head=linear(6, 4), **parts).eval(), torch.zeros(2, 3))
    assert set(coupling.functions) == {"w"}
    assert {group.name: group.width for group in coupling.groups.values()} == {"a.weight": 8, "w": 6}


def test_sizes_of_a_weight_that_is_turned_over_are_not_those_of_the_stored_one():
    """Both are square, and the axes that they state are not of one group."""

    def forward(s, x):
        return s.head(F.linear(s.a(x), s.w.t() * 2) * s.w.shape[0])

    model = Net(forward, a=linear(3, 8), w=free(8, 8), head=linear(8, 4)).eval()
    assert not fxprune.couple(model, torch.zeros(2, 3)).functions


class OfItself(nn.Module):
    """Divides by a product of all channels, which has fewer terms if some are gone."""

    def __init__(self, product):
        super().__init__()
        self.product = product

    def forward(self, w):
        return w / self.product(w)


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 6, 1), nn.ConvTranspose2d(8, 6, 1)])
@pytest.mark.parametrize(
    ("name", "product"),
    [
        ("bias", lambda w: torch.dot(w, w)),
        ("bias", lambda w: (w[None] @ w[:, None])[0, 0]),
        ("bias", lambda w: torch.linalg.vecdot(w, w.relu())),
        ("bias", lambda w: torch.outer(w, w) @ w),
        ("bias", lambda w: torch.addmv(w, torch.outer(w, w), w)),
        ("bias", lambda w: F.conv1d(w[None, :, None], w[None, :, None])[0, 0, 0]),
        ("weight", lambda w: torch.dot(w[:6, 0, 0, 0], w[:6, 0, 0, 0])),
        ("weight", lambda w: torch.mv(w[:6, :6, 0, 0], w[:6, 0, 0, 0]).sum()),
    ],
)
def test_a_product_of_a_layers_own_parameters_has_all_its_terms(layer, name, product):
    layer = copy.deepcopy(layer)
    nn.utils.parametrize.register_parametrization(layer, name, OfItself(product))
    model = nn.Sequential(conv(3, 8), layer, nn.ReLU(), conv(6, 4))
    proof = fxprune.prove(model, IMAGE)
    assert proof.passed and "0.weight" in proof.plan.widths, proof


class Mixed(nn.Module):
    """Mixes the rows of a weight by a matrix of its own."""

    def __init__(self, width):
        super().__init__()
        self.by = nn.Parameter(torch.randn(width, width) / width)

    def forward(self, w):
        return (self.by @ w.flatten(1)).view_as(w)


def test_a_matrix_of_a_layer_reads_the_rows_of_its_weight():
    model = Small(lambda s, y: s.c(y)).eval()
    model.c = nn.Conv2d(8, 8, 1)
    nn.utils.parametrize.register_parametrization(model.c, "weight", Mixed(8))
    assert any("parametrizations" in name for name in fxprune.prove(model, IMAGE).plan.widths)
