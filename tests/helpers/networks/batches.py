"""Networks that take any batch size, or those up to a decision of their code."""

from __future__ import annotations

import torch
from samples.table import Net, conv, linear

import fxprune
from helpers.rewrites.merges import narrow_snapped

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def several(s, x):
    y = s.a(x) if x.shape[0] > 1 else x.repeat(1, 3, 1, 1)[:, :8]
    return s.head(y.relu().mean((2, 3)))


def decided(s, x):
    return s.head((s.a(x) if x.shape[0] == 3 else x[:, :1] + s.a(x)).relu().mean((2, 3)))


def any_size(s, x):
    return s.head(s.a(x).relu().mean((2, 3)))


BOUNDS = {"any": any_size, "2 or more": several, "3 only": decided}


def net(forward):
    torch.manual_seed(0)
    return Net(forward, a=conv(3, 8), head=linear(8, 4)).eval()


def narrowed(coupling, model):
    plan = fxprune.plan(coupling, keep=0.5, method="even")
    return narrow_snapped(model, plan)


def deciding(decide):
    def forward(s, x):
        y = s.a(x).relu()
        return s.head((y * 2 if decide(x, y) else y - 1).mean((2, 3)))

    return forward
