"""Writes to channels at a step reach the whole tensor, or the channels stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import Net, conv

import fxprune
from fxprune.errors import NothingToPruneError
from fxprune.plans import Plan


def by_a_list(s, y):
    torch._foreach_mul_([y[:, ::2]], 2.0)
    return s.head(y.tanh())


def by_name(s, y):
    torch.clamp_(input=y[:, ::2], min=0.1)
    return s.head(y.tanh())


def by_an_initialiser(s, y):
    torch.nn.init.constant_(y[:, ::2], 0.3)
    return s.head(y.tanh())


def transposed_in_place(s, y):
    some = y[:, ::2]
    some.transpose_(2, 3)
    some.mul_(2)
    return s.head(y.tanh())


@pytest.mark.parametrize("forward", [by_a_list, by_name, by_an_initialiser, transposed_in_place])
def test_a_write_whose_target_is_not_certain_freezes(forward):
    net = Net(lambda s, x: forward(s, s.a(x) * 1.5), a=conv(3, 8), head=conv(8, 4)).double().eval()
    images = torch.randn(2, 3, 6, 6, dtype=torch.double)
    coupling = fxprune.couple(net, images)
    assert not coupling.groups
    with pytest.raises(NothingToPruneError, match=r"a slice of channels with a step, changed in place|no rule"):
        fxprune.plan(coupling, keep=0.5)


def with_a_step(y, *end, **step):
    return torch.ops.aten.slice.Tensor(y, 1, 4, *end, **step)


@pytest.mark.parametrize(
    "cut",
    [lambda y: y[:, 4::2], lambda y: with_a_step(y, 8, 2), lambda y: with_a_step(y, step=2)],
    ids=["getitem", "slice", "slice, step by name"],
)
def test_a_copy_at_a_step_stays_one_where_the_kept_channels_are_adjacent(cut):
    def forward(s, x):
        y = s.a(x) * 1.5
        some = cut(y).contiguous()  # no copy of one sample, where the kept ones lie side by side
        some.tanh_()
        return s.head(torch.cat([y, some], 1))

    net = Net(forward, a=conv(3, 8), head=conv(10, 4)).double().eval()
    coupling = fxprune.couple(net, torch.randn(2, 3, 6, 6, dtype=torch.double))
    clusters = {6: [0, 1, 2, 2, 0, 1], 2: [0, 1]}
    plan = Plan(coupling, {found[0].name: np.array(clusters[found[0].width]) for found in coupling.domains}, "", 0)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    for batch in (1, 2, 3):
        images = torch.randn(batch, 3, 6, 6, dtype=torch.double)
        assert torch.allclose(narrow(images), snapped(images), atol=1e-12)  # sums of float64
