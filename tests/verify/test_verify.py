"""Verify: what must agree, what must be found, and what must be left alone."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from helpers.couplings.cases import Plain, randomise
from torch import nn

import fxprune
from fxprune.capture import capture
from fxprune.passes.verify.compare import verify

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


class Returns(nn.Module):
    """One linear layer, whose output is dressed up by a function."""

    def __init__(self, dress, seed=0):
        super().__init__()
        self.layer = randomise(nn.Linear(3, 5), seed).float()
        self.dress = dress

    def forward(self, x):
        return self.dress(self.layer(x.mean((2, 3))))


def refuse(x):
    if len(x) == 3:
        raise ValueError("no threes")
    return x


class Counts(nn.Module):
    """Changes its input and its own buffer in place."""

    def __init__(self):
        super().__init__()
        self.net = plain()
        self.register_buffer("calls", torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        self.calls += 1
        return self.net(x.mul_(2).div_(2))


def nudged(by):
    model = randomise(Plain(), 0)
    with torch.no_grad():
        model.conv2.weight += by
    return model


def plain():
    return randomise(Plain(), 0)


class Rounds(nn.Module):
    """Sums in another order, in float32 whatever it is given, beside a constant of float32."""

    def __init__(self, *orders):
        super().__init__()
        self.orders = orders

    def forward(self, x):
        third = torch.full((4, 4), 1.0).div(3.0)
        y = x.float() @ third
        for order in self.orders:
            y = y.flatten(2)[..., list(order)].sum(-1, dtype=torch.float32)[..., None, None]
        return y.double()


AGREE = {
    "casts to lower precision": (lambda: Rounds(range(16)), lambda: Rounds(range(15, -1, -1))),
    "itself": (plain, plain),
    "float32 against the same in float64": (lambda: plain().float(), lambda: plain().float().double()),
    "training against eval": (lambda: plain().train(), plain),
    "rounding": (plain, lambda: nudged(1e-13)),
    "tuple against list": (lambda: Returns(lambda y: (y, y.relu())), lambda: Returns(lambda y: [y, y.relu()])),
    "the reference refuses, too": (lambda: Returns(refuse), lambda: Returns(refuse)),
    "only the reference refuses": (lambda: Returns(refuse), lambda: Returns(lambda y: y)),
}


@pytest.mark.parametrize("name", AGREE)
def test_agree(name):
    report = verify(*(make() for make in AGREE[name]), X)
    assert report.passed, str(report)
    assert report.max_rel_error <= 1e-9
    assert report.first_differing is None


DISAGREE = {
    "a weight": (plain, lambda: nudged(1e-5), "output", "above 1e-09"),
    "another network": (plain, lambda: randomise(Plain(), 1), "output", "of its largest value"),
    "NaN": (plain, lambda: nudged(math.nan), "output", "10 NaN in the candidate"),
    "NaN in both": (lambda: nudged(math.nan), lambda: nudged(math.nan), "output", "10 NaN in the reference"),
    "a shape": (plain, lambda: Returns(lambda y: y[:, :4]), "output", r"\[2, 4\] instead of \[2, 5\]"),
    "a missing output": (
        lambda: Returns(lambda y: (y, y)),
        lambda: Returns(lambda y: (y,)),
        "output[1]",
        r"returns output\[0\] \[2, 5\], output\[1\] \[2, 5\], the candidate output\[0\] \[2, 5\]",
    ),
    "the second output": (
        lambda: Returns(lambda y: {"a": y, "b": y}),
        lambda: Returns(lambda y: {"a": y, "b": y + 1e-6}),
        "output['b']",
        "above 1e-09",
    ),
    "a baked-in batch": (
        lambda: Returns(lambda y: y),
        lambda: Returns(lambda y: y.reshape(2, -1)),
        "output",
        r"batch of 1 has shape \[2, 2\]|candidate fails at a batch of 1",
    ),
    "only the candidate refuses": (
        lambda: Returns(lambda y: y),
        lambda: Returns(refuse),
        "output",
        "candidate fails at a batch of 3: ValueError: no threes",
    ),
    "no tensor at all": (lambda: Returns(lambda y: None), lambda: Returns(lambda y: None), "output", "no tensor"),
    "a reference that does not run": (lambda: nn.Linear(9, 9), plain, "output", "does not run in float64"),
}


@pytest.mark.parametrize("name", DISAGREE)
def test_disagree(name):
    *makers, path, words = DISAGREE[name]
    report = verify(*(make() for make in makers), X)
    assert not report.passed
    assert report.max_rel_error > report.tolerance
    assert report.first_differing == path
    assert re.search(words, report.reason), report.reason
    assert report.reason in str(report)


def test_a_constant_reference_proves_nothing_and_the_report_says_so():
    report = verify(Returns(torch.zeros_like), Returns(torch.zeros_like), X)
    assert report.passed
    assert report.notes == ("output is 0 everywhere in the reference, which proves nothing",)
    assert "proves nothing" in str(report)


def test_a_refusal_of_the_reference_is_noted():
    assert verify(Returns(refuse), Returns(refuse), X).notes == (
        "the reference itself refuses a batch of 3: ValueError: no threes",
    )


def test_inputs_on_the_meta_device_are_drawn_at_random():
    assert verify(plain(), plain(), X.to("meta")).errors == {"output": 0.0}
    assert not verify(plain(), nudged(1e-3), X.to("meta")).passed


def test_neither_the_models_nor_the_inputs_change():
    reference, candidate, x = plain().float().train(), Counts(), X.double()
    before = [copy.deepcopy(reference.state_dict()), copy.deepcopy(candidate.state_dict()), x.clone()]
    verify(reference, candidate, x)
    for model, state in zip((reference, candidate), before):
        for name, tensor in model.state_dict().items():
            assert tensor.dtype == state[name].dtype
            assert tensor.equal(state[name])
    assert x.equal(before[2])
    assert reference.training
    assert candidate.training
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_tokens_without_numbers_weaken_the_proof_and_that_is_said():
    table = nn.Embedding(5, 3)
    index = torch.zeros(2, 4, dtype=torch.long)
    assert verify(table, table, index).notes == ()
    (note,) = verify(table, table, index.to("meta")).notes
    assert note.startswith("integers on the meta device are taken for zeros")


def test_complex_numbers_that_a_network_asks_the_precision_of_are_compared():
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv1d(2, 8, 1), nn.Conv1d(8, 3, 1)

        def forward(self, x):
            x = torch.fft.rfft(self.a(x), dim=-1)
            if x.dtype == torch.complex32:
                x = x.to(torch.complex64)
            return self.b(torch.fft.irfft(x * 2.0, dim=-1))

    model, x = Spectral().eval(), torch.randn(2, 2, 8)
    plan = fxprune.plan(fxprune.couple(model, x), keep=0.5)
    snapped = fxprune.snap(model, plan)
    report = fxprune.verify(snapped, fxprune.narrow(snapped, plan), x, tolerance=1e-5)  # sums in float32
    assert report.passed, str(report)


@pytest.mark.parametrize("way", ["concrete", "export"])
@pytest.mark.parametrize("kept", [False, True], ids=["made", "kept"])
def test_a_constant_keeps_its_precision_in_every_way_of_capture(way, kept):
    class Window(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.t = nn.Conv1d(2, 4, 3), torch.tensor([0.1, 0.2, 0.3, 0.7])

        def forward(self, x):
            t = self.t if kept else torch.tensor([0.1, 0.2, 0.3, 0.7])
            return self.a(x) * t.sin().exp()[:, None]

    model, x = Window().eval(), torch.randn(2, 2, 8)
    graph = capture(model, (x,), ways=(way,))
    assert verify(model, graph, x, tolerance=1e-12).passed  # float32 would be 1e-8
