"""Which groups a plan narrows: by name, and by their place in the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.couplings.cases import normed, plain
from helpers.rewrites.merges import narrow_unequal
from torch import nn

import fxprune
from fxprune.costs import cost
from fxprune.errors import OptionError
from fxprune.models_zoo.registry import create_model
from fxprune.residual import internal_groups
from fxprune.selection import select


class Block(nn.Module):
    """Conv-act-conv around which the input goes as it is; ``meet`` joins the two."""

    def __init__(self, width, inner, meet):
        super().__init__()
        self.a = nn.Conv2d(width, inner, 3, padding=1)
        self.b = nn.Conv2d(inner, width, 3, padding=1)
        self.meet = meet

    def forward(self, x):
        return self.meet(x, self.b(self.a(x).relu()))


class Gated(Block):
    """The inner channels are multiplied by a gate made from them."""

    def __init__(self, width, inner, meet):
        super().__init__(width, inner, meet)
        self.gate = nn.Conv2d(inner, inner, 1)

    def forward(self, x):
        y = self.a(x).relu()
        return self.meet(x, self.b(y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()))


class Inner(Block):
    """A second stream inside the block."""

    def __init__(self, width, inner, meet):
        super().__init__(width, inner, meet)
        self.c = nn.Conv2d(inner, inner, 1)

    def forward(self, x):
        y = self.a(x).relu()
        return self.meet(x, self.b(y + self.c(y)))


class Sized(Block):
    """A block that reads the sizes of its input: no path for what the network computes."""

    def forward(self, x):
        y = self.b(self.a(x).relu())
        return y.reshape(x.shape[0], y.shape[1], x.shape[2], x.shape[3])


ADDED = {"sum": torch.add, "function": lambda x, y: x + y, "difference": lambda x, y: x - y}


def net(block):
    return nn.Sequential(nn.Conv2d(3, 6, 3), block, nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def coupling_of(model, size=8):
    return fxprune.couple(model, torch.empty(2, 3, size, size, device="meta"))


@pytest.mark.parametrize(
    ("block", "groups", "inside"),
    [
        (Block(6, 4, ADDED["sum"]), 2, {"1.a.weight"}),
        (Block(6, 4, ADDED["function"]), 2, {"1.a.weight"}),
        (Block(6, 4, ADDED["difference"]), 2, {"1.a.weight"}),
        (Gated(6, 4, torch.add), 2, {"1.a.weight"}),
        (Inner(6, 4, torch.add), 2, set()),
        (Block(6, 4, lambda x, y: y), 3, set()),
        (Sized(6, 4, torch.add), 3, set()),
    ],
    ids=["sum", "function", "difference", "gate inside", "sum inside", "no other path", "sizes are no path"],
)
def test_inside_is_what_nothing_is_added_to_and_something_leads_around(block, groups, inside):
    model = net(block)
    coupling = coupling_of(model)
    assert len(coupling.groups) == groups
    assert internal_groups(coupling) == inside


@pytest.mark.parametrize(
    ("name", "size", "ends", "count"),
    [
        ("torchvision/resnet50", 64, ("conv1.weight", "conv2.weight"), 32),
        ("resnet20", 32, ("conv1.weight",), 9),
        ("vit_tiny_patch16_224", 224, ("attn.qkv.weight", "mlp.fc1.weight"), 24),
    ],
)
def test_inside_of_known_networks(name, size, ends, count):
    with torch.device("meta"):
        model = create_model(name, num_classes=10)
    coupling = coupling_of(model, size)
    inside = internal_groups(coupling)
    assert len(inside) == count
    assert all(group.endswith(ends) and group.count(".") > 1 for group in inside)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["conv1.weight", "conv2.weight"]),
        ({"only": ["conv1.weight"]}, ["conv1.weight"]),
        ({"only": ["conv1"]}, ["conv1.weight"]),
        ({"only": ["bn2.*"]}, ["conv2.weight"]),
        ({"only": ["bn?"]}, ["conv1.weight", "conv2.weight"]),
        ({"freeze": ["*.running_var"], "only": None}, OptionError),
        ({"freeze": ["conv1.bias"]}, ["conv2.weight"]),
        ({"only": ["conv*"], "freeze": ["bn1"]}, ["conv2.weight"]),
    ],
)
def test_patterns(options, expected):
    coupling = plain().coupling
    if expected is OptionError:
        with pytest.raises(OptionError, match="none of the 2 groups is left to narrow after `freeze`"):
            select(coupling, **options)
    else:
        assert sorted(select(coupling, **options)) == expected


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (plain, {"only": ["convl"]}, r"`only` has `convl`, which matches no group; the closest are `conv2`, `conv1`"),
        (plain, {"freeze": ["conv1", "head*"]}, "`freeze` has `head*`"),
        (plain, {"only": "conv1"}, "`only` is a list of patterns, not 'conv1'"),
        (plain, {"only": []}, "`only` is a list of patterns"),
        (plain, {"internal_only": True}, "none of the 2 groups is left to narrow after `internal_only` True"),
        (plain, {"only": ["conv1"], "widths": {"conv1.weight": 2}}, "`widths` says which groups become narrower"),
        (
            normed,
            {"only": ["up"]},
            "`up.weight` is under one normalisation with `mid.weight`, whose widths are to stay",
        ),
        (normed, {"freeze": ["up"]}, "share a normalisation with others: `mid.weight`"),
    ],
)
def test_what_cannot_be_selected(make, options, message):
    case = make()
    with pytest.raises(OptionError, match=message.replace("*", r"\*")):
        fxprune.plan(case.coupling, **options)


@pytest.mark.parametrize("wish", [{"keep": 0.5}, {"macs": 0.8}, {"params": 0.8}])
def test_a_plan_narrows_the_selected_groups_alone(wish):
    model = net(Block(6, 16, torch.add))
    coupling = coupling_of(model)
    plan = fxprune.plan(coupling, **wish, freeze=["0"])
    assert list(plan.clusters) == ["1.a.weight"]
    assert plan.method.endswith(", 1 of 2 groups")
    assert plan == fxprune.plan(coupling, **wish, internal_only=True)
    for budget in {"macs", "params"} & wish.keys():
        reached = getattr(cost(plan), budget) / getattr(cost(coupling), budget)
        assert reached == pytest.approx(0.8, abs=0.03)  # a channel of 16 is 0.055 of the whole
    narrow = narrow_unequal(model, plan)
    assert narrow.get_submodule("0").out_channels == 6
    assert narrow(torch.randn(1, 3, 8, 8)).shape == (1, 4)
    assert np.array_equal(
        plan.clusters["1.a.weight"], fxprune.plan(coupling, **wish, only=["1.a"]).clusters["1.a.weight"]
    )
