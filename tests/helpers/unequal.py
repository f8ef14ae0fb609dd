"""Merge channels that differ, on purpose: the weights of most tests are random, and only the merge is looked at."""

from __future__ import annotations

import warnings

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
