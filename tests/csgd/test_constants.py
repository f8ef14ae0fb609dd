"""Constants shrink as weights do under C-SGD; what the network writes is not pulled."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.csgd.steps import assert_shrunk, away
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import fxprune
from fxprune.errors import ModelError


class Frozen(nn.Module):
    """A normalisation whose vectors are buffers, all different."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8), nn.Conv2d(8, 4, 3)
        for buffer in self.norm.buffers():
            buffer.uniform_(0.5, 1.5)

    def forward(self, x):
        return self.b(self.norm(self.a(x)).relu())


def test_constants_are_pulled_as_weights_are():
    net, x = Frozen().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    plan = fxprune.plan(fxprune.couple(net, x), keep=0.5)
    assert {axis.parameter for axis in plan.coupling.groups["a.weight"].tied} > set(dict(net.named_buffers()))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = fxprune.snap(net, plan).changes
    with fxprune.csgd(net, plan, optimizer, strength=1.0):
        for _ in range(20):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    after = fxprune.snap(net, plan).changes
    for name in ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
        assert after[name] == pytest.approx(before[name] * 0.9**20, rel=0.05)  # its size shrinks, too


class OwnNorm(nn.Module):
    """A normalisation of the user's own, with running statistics, beside a constant that no state dict holds."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.register_buffer("mean", torch.zeros(8, 1, 1))
        self.register_buffer("scale", torch.rand(8, 1, 1) + 0.5, persistent=False)

    def forward(self, x):
        x = self.a(x)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean((0, 2, 3))[:, None, None], 0.1)
        return self.b(((x - self.mean) * self.scale).relu())


def own_norm():
    torch.manual_seed(0)
    net, x = OwnNorm().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    return net, x, fxprune.plan(fxprune.couple(net.eval(), x), keep=0.5)


def take_step(net, loss, optimizer):
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()


def test_what_the_network_writes_is_not_pulled_and_constants_are_in_the_state():
    net, x, plan = own_norm()
    net.train()
    ema = torch.zeros_like(net.mean)
    scales = [net.scale.clone()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with fxprune.csgd(net, plan, optimizer, strength=1.0) as hook:
        for _ in range(3):
            with torch.no_grad():
                ema.lerp_(net.a(x).mean((0, 2, 3))[:, None, None], 0.1)
            take_step(net, lambda: net(x).square().mean(), optimizer)
            scales.append(net.scale.clone())
        state = hook.state_dict()
    assert torch.equal(net.mean, ema)
    assert not torch.equal(scales[0], scales[-1])

    again, _, plan = own_norm()  # whose `scale` is that before training
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    again.load_state_dict(net.state_dict())
    fxprune.csgd(again, plan, optimizer, strength=1.0).load_state_dict(state)
    assert torch.equal(again.scale, scales[-1])


class Scaled(nn.Module):
    """A constant of any type, which the network may replace by an equal one."""

    def __init__(self, scale, replaces=False):
        super().__init__()
        self.a, self.b, self.replaces = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), replaces
        self.register_buffer("scale", scale)

    def forward(self, x):
        if self.training and self.replaces:
            self.scale = self.scale.clone()
        return self.b((self.a(x) * self.scale[:, None, None]).relu())


SCALE = torch.linspace(1.0, 2.0, 8)
CONSTANTS = {
    "float16": Scaled(SCALE.half()),
    "bfloat16": Scaled(SCALE.bfloat16()),
    "replaced by the network": Scaled(SCALE.clone(), replaces=True),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_become_equal(name):
    net, x = CONSTANTS[name].eval(), torch.randn(2, 3, 8, 8)
    plan = fxprune.plan(fxprune.couple(net, x), keep=0.5)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    kept = (net.scale.float().mean(), net.scale.dtype)
    with fxprune.csgd(net, plan, optimizer, strength=1.0) as hook:
        for _ in range(100):
            take_step(net, lambda: net(x).square().mean(), optimizer)
        hook.load_state_dict(hook.state_dict())
    # 0.9**100 = 3e-5 is left, and the last bit of a type of 16 bits.
    assert fxprune.snap(net, plan).changes["scale"] < max(1e-4, torch.finfo(kept[1]).eps)
    assert net.scale.dtype == kept[1] and abs(net.scale.float().mean() - kept[0]) < 1e-2


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_constant_that_is_not_finite_is_refused_early(number):
    coupling = fxprune.couple(Scaled(SCALE.where(SCALE < 2, number)).eval(), torch.randn(2, 3, 8, 8))
    with pytest.raises(ModelError, match="`scale` has 1 of 8 numbers that are not finite"):
        fxprune.plan(coupling, keep=0.5)


def test_groups_may_be_added_to_the_optimizer():
    net, x, plan = own_norm()
    more = nn.Parameter(torch.ones(4, 1, 1, dtype=torch.float64))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = away(net, plan)
    with fxprune.csgd(net, plan, optimizer, strength=1.0):
        optimizer.add_param_group({"params": [more], "lr": 0.01})
        for _ in range(3):
            take_step(net, lambda: (net(x) * more).square().mean(), optimizer)
    assert_shrunk(before, away(net, plan), 0.9**3)
    assert not torch.equal(more, torch.ones_like(more))


@pytest.mark.parametrize("narrow", [False, True])
def test_a_network_that_was_converted_since_is_refused(narrow):
    net, x, plan = own_norm()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    fxprune.csgd(net, plan, optimizer, strength=1.0, narrow=narrow)
    net.float()
    with pytest.raises(fxprune.errors.OptionError, match=r"`a.weight` was float64 .* and is float32 .* now"):
        take_step(net, lambda: net(x.float()).square().mean(), optimizer)
