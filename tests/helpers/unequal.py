"""Merge channels that differ, on purpose: the weights of most tests are random, and only the merge is looked at."""

from __future__ import annotations

import warnings

import fxprune
from fxprune.errors import UnequalClustersWarning


def narrow_unequal(model, plan, **options):
    """``fxprune.narrow``, whose warning that the narrow network is another one than the model is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnequalClustersWarning)
        return fxprune.narrow(model, plan, **options)
