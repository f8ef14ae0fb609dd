"""Merge channels that differ, on purpose: the weights of most tests are random, and only the merge is looked at."""

from __future__ import annotations

import warnings

import torch
from samples import Net, linear
from torch import nn

import fxprune
from fxprune.errors import UnequalClustersWarning


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


def heads(x):
    return x.unflatten(-1, (2, 8)).transpose(1, 2)


def merged(x):
    return x.transpose(1, 2).flatten(2)


def attention(forward, **layers):
    torch.manual_seed(0)
    layers = {name: linear(16, 16) for name in ("q", "k", "v", "o")} | layers
    return Net(forward, stem=linear(6, 16), **layers, head=linear(16, 4)).double().eval()
