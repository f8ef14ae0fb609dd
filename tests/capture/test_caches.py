"""What a network computed in earlier calls and kept does not stand in the way, and is not taken for a constant."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.merges import narrow_unequal
from torch import nn

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.errors import CaptureError

X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


class Attention(nn.Module):
    """A bias per channel, computed once in eval mode and kept in a table until training begins, as LeViT does."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.bias, self.kept = nn.Parameter(torch.randn(1, 16, 1, 1)), {}

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self.kept = {}
        return self

    def bias_now(self):
        if self.training:
            return self.bias.exp()
        if "cpu" not in self.kept:
            self.kept["cpu"] = self.bias.exp()
        return self.kept["cpu"]

    def forward(self, x):
        return self.b((self.a(x) + self.bias_now()).relu())


class Lasting(Attention):
    """The same without an end."""

    def train(self, mode=True):
        return nn.Module.train(self, mode)


@pytest.mark.parametrize("grad", [True, False])
def test_a_network_that_ran_is_coupled_as_a_fresh_one(grad):
    net = Attention().eval()
    fresh = fxprune.couple(net, X)
    with torch.set_grad_enabled(grad):
        net(X)
    coupling = fxprune.couple(net, X)
    assert coupling.digest == fresh.digest
    assert coupling.share_prunable > 0.9
    assert net.kept and not net.training


@pytest.mark.parametrize("grad", [True, False])
def test_narrow_reads_the_weights_of_now(grad):
    net = Attention().eval()
    with torch.set_grad_enabled(grad):
        net(X)
    plan = fxprune.plan(fxprune.couple(net, X))
    net.train()
    net.bias.data += 1
    net.eval()
    wanted = fxprune.snap(net, plan)
    assert torch.allclose(narrow_unequal(net, plan)(X), wanted(X), atol=1e-5)
    net(X)  # what it keeps now is from before the snap
    assert torch.allclose(fxprune.snap(net, plan)(X), wanted(X), atol=1e-5)


def test_what_is_never_dropped_is_copied_without_history():
    net = Lasting().eval()
    net(X)
    coupling = fxprune.couple(net, X)
    assert coupling.graph_module(X).shape == (2, 4, 8, 8)


class Broken(Attention):
    """Its train changes weights, layers and attributes, and fails on tensors without numbers."""

    def train(self, mode=True):
        if mode and self.bias.is_meta:  # where a copy is asked to forget
            self.bias.data.zero_()
            self.a.weight.data.zero_()
            self.kept = None
            self.b = nn.Identity()
            raise RuntimeError("not now")
        return nn.Module.train(self, mode)


def test_a_train_that_fails_changes_nothing():
    net = Broken().eval()
    net(X)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    coupling = fxprune.couple(net, X)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(coupling.graph_module(X), net(X))


class Distances(nn.Module):
    """A table of distances for the number of tokens, in a buffer that no state dict holds, as in ConViT."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(3, 8), nn.Linear(8, 4), nn.Linear(1, 8)
        self.register_buffer("table", torch.zeros(1, 1), persistent=False)

    def forward(self, x):
        if self.table.shape[0] != x.shape[1]:
            self.table = torch.arange(x.shape[1], dtype=x.dtype)[:, None]
        return self.b((self.a(x) + self.scale(self.table)).relu())


def test_a_plan_holds_when_the_network_has_kept_a_table_of_another_shape():
    net, tokens = Distances().eval(), torch.linspace(-1, 1, 30).reshape(2, 5, 3)
    plan = fxprune.plan(fxprune.couple(net, tokens), keep=0.5)
    wanted = net(tokens)
    assert net.table.shape == (5, 1)
    snapped = fxprune.snap(net, plan)
    assert not torch.allclose(snapped(tokens), wanted, atol=1e-3)
    assert torch.allclose(fxprune.narrow(snapped, plan)(tokens), snapped(tokens), atol=1e-6)  # float32
    assert torch.allclose(narrow_unequal(net, plan)(tokens), snapped(tokens), atol=1e-6)


class Detector(nn.Module):
    """Keeps a place for each position until the sizes of its map change, as heads of YOLO do."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.shape, self.places = None, torch.empty(0)

    def forward(self, x):
        y = self.a(x).relu()
        if self.shape != y.shape:
            self.shape, self.places = y.shape, y.new_ones(y.shape[2:]).cumsum(0)
        return self.b(y) * self.places


class Longest(Detector):
    """Keeps numbers that depend on the most samples so far, as rotary embeddings of growing length do."""

    def forward(self, x):
        y = self.a(x).relu()
        if self.shape is None or len(x) > self.shape:
            self.shape, self.places = len(x), y.new_ones(len(x)).cumsum(0) / len(x)
        return self.b(y) * self.places[: len(x), None, None, None]


def narrow_of(net, plan):
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    return lambda x: (narrow(x), snapped(x))


@pytest.mark.parametrize("used", [1, 2, 3, 5])
def test_what_was_kept_for_one_batch_does_not_bind_the_network_to_it(used):
    net = Detector().eval()
    net(X[:1].expand(used, -1, -1, -1))
    coupling = fxprune.couple(net, X)
    assert (coupling.digest, str(coupling.batch)) == (fxprune.couple(Detector().eval(), X).digest, "any")
    both = narrow_of(net, fxprune.plan(coupling, keep=0.5))
    for batch in (used, 1, 2, 3, used):
        assert torch.allclose(*both(torch.linspace(-1, 1, batch * 192).reshape(batch, 3, 8, 8)), atol=1e-5)  # float32


def test_what_depends_on_earlier_batches_binds_the_network_to_the_example():
    net = Longest().eval()
    net(X)
    assert str(fxprune.couple(net, X).batch) == "2 only"


class Counting(Detector):
    """Counts the sizes that it has seen."""

    def forward(self, x):
        y = self.a(x).relu()
        if self.shape != y.shape:
            self.shape, self.places = y.shape, self.places.new_ones(1 + self.places.numel())
        return self.b(y) * self.places.sum()


def test_what_changes_with_each_new_size_is_refused():
    with pytest.raises(CaptureError, match="after a call at another batch, output 0 differs"):
        fxprune.couple(Counting().eval(), X)


class FirstSize(nn.Module):
    """It works at the size of its first images."""

    def __init__(self, kept):
        super().__init__()
        self.a, self.b, self.kept, self.size = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1), kept, None

    def forward(self, x):
        y = self.a(x)
        if self.kept is None:
            self.size = self.size or y.shape[-2:]
        size = self.size if self.kept is None else self.kept.setdefault("size", y.shape[-2:])
        y = F.interpolate(F.interpolate(y, size=size), size=x.shape[-2:])
        return self.b(y.relu())


SIZES = {}


@pytest.mark.parametrize("kept", [None, {}, SIZES], ids=["attribute", "table", "variable"])
def test_the_size_of_an_earlier_call_is_not_that_of_each_call(kept):
    SIZES.clear()
    net = FirstSize(kept).eval()
    captured = fxprune.couple(net, X).graph_module
    wanted = net(X), net(torch.cat([X, X], -1))
    assert torch.allclose(captured(X), wanted[0], atol=1e-5)
    with pytest.raises(SpecialisedError):
        captured(torch.cat([X, X], -1))


class Positions(nn.Module):
    """Its table is computed again where the size is another one."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.size = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1), None

    def forward(self, x):
        if self.size != x.shape[-2:]:
            self.size, self.table = x.shape[-2:], torch.arange(x.shape[-1], device=x.device).to(x.dtype)
        return self.b((self.a(x) + self.table).relu())


def test_a_table_for_one_size_of_images_is_forgotten():
    net, larger = Positions().eval(), torch.cat([X, X], -1)
    with torch.no_grad():
        net(X)
    captured = fxprune.couple(net, X).graph_module
    for each in (larger, X):
        assert torch.allclose(captured(each), net(each), atol=1e-5)
