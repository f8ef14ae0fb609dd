"""Merge channels that differ, on purpose: the weights of most tests are random, and only the merge is looked at."""

from __future__ import annotations

import warnings

import torch
from samples import Net, linear
from torch import nn

import fxprune
from fxprune.errors import UnequalClustersWarning
from fxprune.passes.verify import randomised


def narrow_unequal(model, plan, **options):
    """``fxprune.narrow``, whose warning that the narrow network is another one than the model is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnequalClustersWarning)
        return fxprune.narrow(model, plan, **options)


def snapped_and_narrow(model: nn.Module, plan: fxprune.Plan, **options) -> tuple[nn.Module, nn.Module]:
    """``fxprune.snap``, and ``fxprune.narrow`` without the second analysis that a copy of the model takes."""
    snapped = fxprune.snap(model, plan)
    return snapped, fxprune.narrow(snapped, plan.of_copy(snapped), **options)


def narrow_snapped(model: nn.Module, plan: fxprune.Plan, **options) -> nn.Module:
    """The narrow network of :func:`snapped_and_narrow`."""
    return snapped_and_narrow(model, plan, **options)[1]


def narrow_randomised(net: nn.Module, x: torch.Tensor, **options: object) -> tuple[nn.Module, torch.fx.GraphModule]:
    """A network with random weights in eval mode, and its snapped and narrow one."""
    net = randomised(net.eval()).eval()
    plan = fxprune.plan(fxprune.couple(net, x), **(options or {"keep": 0.5}))
    return net, narrow_snapped(net, plan)


def halved(model, inputs, **options):
    """Snapped and narrow network of half the width."""
    return snapped_and_narrow(model, fxprune.plan(fxprune.couple(model, inputs), keep=0.5, method="even"), **options)


def heads(x):
    return x.unflatten(-1, (2, 8)).transpose(1, 2)


def merged(x):
    return x.transpose(1, 2).flatten(2)


def attention(forward, **layers):
    torch.manual_seed(0)
    layers = {name: linear(16, 16) for name in ("q", "k", "v", "o")} | layers
    return Net(forward, stem=linear(6, 16), **layers, head=linear(16, 4)).double().eval()
