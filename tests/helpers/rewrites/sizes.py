"""Compare snapped and narrow networks at other sizes of images than the example's."""

from __future__ import annotations

import torch
from samples import Net, conv

import fxprune
from fxprune.passes.verify.compare import verify


def made(op, width=8, kept=1, **layers):
    """``op`` behind a convolution: the snapped network and the narrow one, in float64."""
    torch.manual_seed(0)
    net = Net(lambda s, x: op(s, s.a(x)), a=conv(3, width), **layers).double().eval()
    coupling = fxprune.couple(net, torch.rand(2, 3, 8, 8, dtype=torch.float64))
    plan = fxprune.plan(coupling, widths={"a.weight": kept}, method="even")
    snapped = fxprune.snap(net, plan)
    return snapped, fxprune.narrow(snapped, plan)


def images(height, width):
    return torch.rand(2, 3, height, width, dtype=torch.float64)


def assert_same(snapped, narrow, *sizes):
    for size in sizes:
        report = verify(snapped, narrow, images(*size), batches=())
        assert report.passed, report


def shares_of_rows(y):
    return y.softmax(1).square().sum((1, 2))
