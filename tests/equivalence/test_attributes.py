"""State that a model keeps from one call to the next is named, and refused."""

from __future__ import annotations

import builtins
import functools
import random
import types

import pytest
import torch
from helpers.networks.middle import IMAGES, Small
from torch import nn

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.capture.trace import capture
from fxprune.equivalence.contents import contents_of
from fxprune.errors import CaptureError


def counted(s, y):
    s.calls = getattr(s, "calls", 0) + 1
    return y


def streamed(s, y):
    z = y + s.last
    s.last = y.detach().mean((0, 2, 3))[:, None, None]
    return z


def remembered(s, y):
    z = y + getattr(s, "before", 0)
    s.before = y.detach().mean()
    return z


def listed(s, y):
    s.__dict__.setdefault("history", []).append(1)
    return y * len(s.history)


def counted_in_a_list(s, y):
    calls = s.__dict__.setdefault("calls", [0])
    calls[0] += 1
    return y if calls[0] < 5 else y * 2


TALLY = types.SimpleNamespace(calls=0)


def counted_in_an_object(s, y):
    s.__dict__.setdefault("tally", types.SimpleNamespace(calls=0)).calls += 1
    return y if s.tally.calls < 1000 else y * 2


def count():
    TALLY.calls += 1


def counted_in_a_variable(s, y):
    count()
    return y if TALLY.calls < 1000 else y * 2


def counted_in_a_class(s, y):
    Counted.calls += 1
    return y if Counted.calls < 1000 else y * 2


class Counted(Small):
    calls = 0


def largest(s, y):
    table = s.__dict__.setdefault("table", {})
    if "largest" not in table:
        table["largest"] = y.detach().abs().max()
    return y / table["largest"]


def reparametrized(s, y):
    s.b.weight.data = s.b.weight.flip(0) + s.a.weight.mean()
    return y


def assigned(s, y):
    s.b.weight.data = s.b.weight.data * 0.5
    return y


def clamped(s, y):
    s.b.weight.data.clamp_(-0.01, 0.01)
    return y


REFUSED = {
    "type": (lambda s, y: y * 2 if builtins.type(y) is torch.Tensor else y, r"output 0 differs .* first layer .* `b`"),
    "buffer": (streamed, r"`last` \(set at \S*test_attributes.py:\d+\)"),
    "attribute": (remembered, r"keeps `before` \(set at \S*test_attributes.py:\d+\) from one call to the next"),
    "list": (listed, "keeps `history`"),
    "counter in a list": (counted_in_a_list, "keeps `calls`"),
    "counter in an object": (counted_in_an_object, "keeps `tally`"),
    "counter in a variable": (counted_in_a_variable, r"keeps `.*test_attributes\.TALLY`"),
    "counter in a class": (counted_in_a_class, "keeps `Counted.calls`"),
    "the largest number so far": (largest, "at a second call, output 0 differs"),
    "counter": (counted, "keeps `calls`"),
    "weight.data": (assigned, "sets the attribute `data` of a tensor.* Set it once before"),
    "weight.data, of another weight": (reparametrized, "sets the attribute `data` of a tensor.* Set it once before"),
    "weight.data.clamp_": (clamped, "writes to its parameter `b.weight`"),
    "random": (lambda s, y: y + random.random(), "draws no random numbers, as the model does"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_graph_does_is_refused_by_name(name):
    middle, reason = REFUSED[name]
    with pytest.raises(CaptureError, match=reason):
        fxprune.couple(Counted(middle).eval(), IMAGES)


def counted_in_training(s, y):
    s.steps = getattr(s, "steps", 0) + s.training
    return y * s.steps


def counted_in_a_buffer(s, y):
    if s.training:
        s.last.add_(1)
    return y * (s.last[0] > 1)


@pytest.mark.parametrize("uses", [counted_in_training, counted_in_a_buffer])
def test_what_only_a_second_call_in_training_shows_stops_there(uses):
    captured = capture(Small(uses).eval(), (IMAGES,))
    captured(IMAGES)
    with pytest.raises(SpecialisedError, match="something else in training mode"):
        captured.train()(IMAGES)


def test_a_hit_of_a_bounded_cache_is_no_state_and_an_entry_is():
    net = Small(lambda _, y: y)
    net.table = functools.lru_cache(maxsize=8)(lambda name: [name])
    net.table("a"), net.table("b")
    before = contents_of([net])
    net.table("a")
    assert contents_of([net]) == before
    net.table("c")
    assert contents_of([net]) != before


def test_entries_of_a_bounded_cache_stand_in_one_order_wherever_they_lie_in_memory():
    net = Small(lambda _, y: y)
    net.table = functools.lru_cache(maxsize=1)(lambda *key: [torch.ones(1)])
    found, kept = [], []
    for number in range(30):
        key = [nn.Identity() for _ in range(2 + number % 3)]
        kept += key[: number % 2], [[] for _ in range(number)]  # what is freed and kept differs
        net.table(*key[:2])
        found.append(contents_of([net]))
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("hits", ["a", "ab", "ba", "cab"])
def test_hits_leave_the_order_of_what_a_bounded_cache_holds(hits):
    net = Small(lambda _, y: y)
    net.table = functools.lru_cache(maxsize=3)(lambda name: [name, len(name)])
    [*map(net.table, "abc")]
    before = contents_of([net])
    [*map(net.table, hits)]
    assert contents_of([net]) == before


def another_constant(layer):
    vars(layer)["eps"] = 0.5


def one_more_attribute(layer):
    vars(layer)["seen"] = True


def a_hook(layer):
    layer.register_forward_hook(lambda *_: None)


def a_list_in_place_of_a_constant(layer):
    vars(layer)["eps"] = [layer.eps]


@pytest.mark.parametrize("change", [another_constant, one_more_attribute, a_hook, a_list_in_place_of_a_constant])
def test_a_layer_of_constants_is_described_anew_after_a_change(change):
    layer, known = nn.BatchNorm2d(4), {}
    before = contents_of([layer], known)
    assert before == contents_of([layer], known) == contents_of([layer]) and known
    change(layer)
    assert contents_of([layer], known) == contents_of([layer]) != before


class Checked(nn.Module):
    def forward(self, x):
        assert x.ndim == 4  # which pytest rewrites, so that its own functions are named here
        return x


def test_what_pytest_writes_into_a_forward_is_no_part_of_the_network():
    assert "@pytest_ar" in Checked.forward.__code__.co_names
    assert not [name for _, name in contents_of([Checked()]) if name.startswith("_pytest")]


def halves_in_a_list(net):
    torch._foreach_mul_([parameter.data for parameter in net.a.parameters()], 0.5)


def halves_into_itself(net):
    torch.mul(net.a.weight.data, 0.5, out=net.a.weight.data)


@pytest.mark.parametrize("write", [halves_in_a_list, halves_into_itself])
def test_weights_that_a_call_writes_to_have_their_numbers_afterwards(write):
    class Writes(Small):
        def forward(self, x):
            write(self)
            return super().forward(x)

    net = Writes().eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(CaptureError, match=r"writes to its parameter `a\.(weight|bias)`"):
        fxprune.couple(net, IMAGES)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
