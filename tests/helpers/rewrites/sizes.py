"""Compare snapped and narrow networks at other sizes of images than the example's."""

from __future__ import annotations

import pytest
import torch
from samples import Net, conv

import fxprune
from fxprune.arguments.guards import SpecialisedError
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


def assert_refused_at(snapped, narrow, given, others):
    """The networks agree on the example's inputs; on others, that the wide one takes, a guard speaks."""
    torch.testing.assert_close(narrow(*given), snapped(*given), rtol=1e-9, atol=1e-12)  # rounding of float64
    assert snapped(*others).isfinite().all()
    with pytest.raises(SpecialisedError, match="capture again"):
        narrow(*others)
