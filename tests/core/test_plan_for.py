"""A plan is used on the network as it was analysed: one that was changed since is analysed again."""

from __future__ import annotations

import enum
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from samples import Net, conv, linear
from torch import nn

import fxprune
from fxprune.errors import PlanError
from fxprune.plan_file import plan_for

IMAGES = torch.rand(2, 3, 8, 8)


class Mode(enum.Enum):
    SINGLE = 1
    DOUBLE = 2


EDITS = {
    "layer": lambda net: setattr(net, "act", nn.GELU()),
    "layer without attributes": lambda net: setattr(net, "act", nn.Identity()),
    "attribute": lambda net: setattr(net, "factor", 2.0),
    "attribute of a layer": lambda net: setattr(net.a, "stride", (2, 2)),
    "part of an attribute": lambda net: net.addends.append(1.0),
    "hook": lambda net: net.act.register_forward_hook(lambda layer, given, out: out * 2),
    "hook of the network": lambda net: net.register_forward_pre_hook(lambda layer, given: (given[0] * 2,)),
    "function": lambda net: setattr(net, "also", F.gelu),
    "function without a name": lambda net: setattr(net, "last", lambda x: x.square()),
    "one of its objects": lambda net: setattr(net, "now", net.choices[1]),
    "member of an enumeration": lambda net: setattr(net, "mode", Mode.DOUBLE),
    "type of numbers": lambda net: setattr(net, "kind", torch.float64),
    "sizes": lambda net: setattr(net, "crop", torch.Size([7])),
    "layer outside of the modules": lambda net: setattr(net.outside[0], "negative_slope", 0.5),
    "fraction": lambda net: setattr(net, "share", Fraction(3, 2)),
    "fraction of the same identity": lambda net: setattr(net.share, "_numerator", 3),
    "class": lambda net: setattr(net, "made", nn.GELU),
    "tensor": lambda net: net.shift.mul_(2),
    "numbers of a tensor": lambda net: net.shift.data.fill_(3),
    "forward of one layer": lambda net: setattr(net.act, "forward", torch.square),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_network_that_was_changed_since_is_analysed_again(name):
    def forward(s, x):
        x = s.outside[0](x - 0.5)[..., : s.crop[0]]
        x = x * (s.mode is Mode.DOUBLE or 2) * (s.kind is torch.float64 or 3) * float(s.share) + s.now[0]
        y = s.made()(s.also(s.last(s.act(s.a(x)) * s.factor + sum(s.addends))))
        return s.b(y + s.shift).mean((2, 3))

    net = Net(forward, a=conv(3, 8), act=nn.ReLU(), b=conv(8, 4)).eval()
    net.factor, net.addends, net.also, net.made, net.shift = 1.0, [0.5], F.relu, nn.ReLU, torch.ones(())
    net.last, net.choices, net.mode, net.kind = lambda x: x.relu(), ([1.0], [2.0]), Mode.SINGLE, torch.float32
    net.outside, net.crop = [nn.LeakyReLU(0.1)], torch.Size([8])
    net.now, net.share = net.choices[0], Fraction(1, 2)
    given = fxprune.plan(fxprune.couple(net, IMAGES), keep=0.5)
    net.load_state_dict(fxprune.snap(net, given).state_dict())
    EDITS[name](net)
    torch.testing.assert_close(fxprune.narrow(net, given)(IMAGES), net(IMAGES))


def test_a_plan_does_not_fit_where_tensors_are_shared_in_another_way():
    net = Net(lambda s, x: s.c(s.b(s.a(x).relu()).relu()).mean((2, 3)), a=conv(3, 8), b=conv(8, 8), c=conv(8, 8)).eval()
    given = fxprune.plan(fxprune.couple(net, IMAGES), keep=0.5)
    net.c.weight = net.b.weight
    with pytest.raises(PlanError):
        fxprune.narrow(net, given)


def test_a_network_that_ran_and_was_trained_is_not_analysed_again(monkeypatch):
    layers = {"a": conv(3, 8), "b": conv(8, 6), "head": linear(6, 4)}
    net = Net(lambda s, x: s.head(s.b(s.a(x).relu()).mean((2, 3))), **layers)
    given = fxprune.plan(fxprune.couple(net, IMAGES), keep=0.5)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with fxprune.csgd(net.train(), given, optimizer, 0.1):
        net(torch.rand(4, 3, 8, 8)).sum().backward()
        optimizer.step()
    monkeypatch.delattr("fxprune.analysis.couple")
    assert plan_for(net.eval(), given) is given


def test_tensors_without_plain_numbers_may_be_attributes():
    net = Net(lambda s, x: s.b(s.a(x).relu()).mean((2, 3)), a=conv(3, 8), b=conv(8, 4)).eval()
    net.kept = torch.ones(2, dtype=torch.complex64).conj(), torch.eye(2).to_sparse(), torch.empty(2, device="meta")
    given = fxprune.plan(fxprune.couple(net, IMAGES), keep=0.5)
    assert plan_for(net, given) is given


def test_an_example_that_is_overwritten_is_kept():
    ids = torch.zeros(2, 3, dtype=torch.long)
    net = Net(
        lambda s, i: s.b(s.a(s.e(i)).relu()) * s.factor, e=nn.Embedding(5, 4), a=linear(4, 8), b=linear(8, 4)
    ).eval()
    net.factor = 1.0
    given = fxprune.plan(fxprune.couple(net, ids), keep=0.5)
    ids.fill_(99)
    net.factor = 2.0
    assert plan_for(net, given) == given
