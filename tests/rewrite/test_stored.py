"""Factors lie in tensors that no layer holds, and only in those that nothing else reads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.merges import attention, heads, merged, narrow_snapped
from samples import linear
from torch import nn

import fxprune


def addmm(s, x):
    return torch.addmm(s.u, x.flatten(0, 1), s.w).unflatten(0, x.shape[:2])


# How queries are made of stored tensors, what else reads these, and whether the factor goes into them.
STORED = {
    "linear": (lambda s, x: F.linear(x, s.w, s.u), None, True),
    "linear without bias": (lambda s, x: F.linear(x, s.w), None, True),
    "addmm": (addmm, None, True),
    "addmm of a multiple": (lambda s, x: torch.addmm(s.u, x.flatten(0, 1), s.w, beta=2).view(x.shape), None, True),
    "halves joined": (lambda s, x: F.linear(x, torch.cat([s.h, s.j]), s.u), None, True),
    "addmm of one number": (lambda s, x: torch.addmm(s.one, x.flatten(0, 1), s.w).view(x.shape), None, False),
    "scale": (lambda s, x: s.u * x, None, True),
    "scale beside another stored tensor": (lambda s, x: s.u * x, lambda s, x: x @ s.w, True),
    "weight read elsewhere": (lambda s, x: F.linear(x, s.w, s.u), lambda s, x: F.linear(x, s.w), False),
    "bias read elsewhere": (lambda s, x: F.linear(x, s.w, s.u), lambda s, x: x + s.u, False),
    "matrix read elsewhere": (addmm, lambda s, x: x @ s.w, False),
    "scale read elsewhere": (lambda s, x: s.u * x, lambda s, x: s.u + x, False),
    "weight of a layer that is called": (lambda s, x: F.linear(x, s.p.weight, s.u), lambda s, x: s.p(x), False),
    "layer whose weight is read": (lambda s, x: s.p(x), lambda s, x: F.linear(x, s.p.weight), False),
    "layer whose weight is another's": (lambda s, x: s.p(x), lambda s, x: s.t(x), False),
    "layer called twice": (lambda s, x: s.p(x), lambda s, x: s.p(x.relu()), False),
    "sizes of a weight read": (lambda s, x: F.linear(x, s.w, s.u), lambda s, x: x * s.w.shape[0], True),
    "type of a layer's weight read": (lambda s, x: s.p(x), lambda s, x: x.to(s.p.weight.dtype), True),
    "sizes of queries read": (lambda s, x: (q := s.p(x)).reshape(q.size(0), q.shape[1], 16), None, True),
    "layer norm": (lambda s, x: s.l(x), None, True),
    "batch norm": (lambda s, x: s.b(x.transpose(1, 2)).transpose(1, 2), None, True),
    "batch norm of maps": (lambda s, x: s.maps(x.transpose(1, 2)[..., None])[..., 0].transpose(1, 2), None, True),
    "norm without weights": (lambda s, x: s.m(x), None, False),
    "convolution": (lambda s, x: s.c(x.transpose(1, 2)).transpose(1, 2), None, True),
    "parametrised convolution": (lambda s, x: s.n(x.transpose(1, 2)).transpose(1, 2), None, False),
}


@pytest.mark.parametrize("name", STORED)
def test_stored_tensors_take_a_factor_where_nothing_else_reads_them(name):
    queries, elsewhere, absorbed = STORED[name]

    def forward(s, x):
        x = s.stem(x)
        weights = (heads(queries(s, x)) @ F.gelu(heads(s.k(x))).mT).softmax(-1)
        out = s.o(merged(weights @ heads(s.v(x))))
        return s.head((out if elsewhere is None else out + s.r(elsewhere(s, x))).mean(1))

    torch.manual_seed(0)
    more = {
        name: nn.Parameter(torch.randn(shape) / 4)
        for name, shape in {"w": (16, 16), "u": (16,), "one": (1,), "h": (6, 16), "j": (10, 16)}.items()
    }
    conv = {"c": nn.Conv1d(16, 16, 1), "n": nn.utils.parametrizations.weight_norm(nn.Conv1d(16, 16, 1))}
    norms = {"l": nn.LayerNorm(16), "b": nn.BatchNorm1d(16), "maps": nn.BatchNorm2d(16)}
    layers = {"p": linear(16, 16), "t": linear(16, 16), "m": nn.LayerNorm(16, elementwise_affine=False)}
    if "another's" in name:
        layers["t"].weight = layers["p"].weight
    model = attention(forward, r=linear(16, 16), **layers, **norms, **more, **conv)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    plan = fxprune.plan(fxprune.couple(model, x), keep=0.5, method="even")
    snapped, narrow = fxprune.snap(model, plan), narrow_snapped(model, plan)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64
    assert (narrow.meta["absorbed"], narrow.meta["factors"]) == ((1, 0) if absorbed else (0, 1)), narrow.code
