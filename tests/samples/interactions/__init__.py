"""Samples of what no rule decides alone, in one file per question."""

from . import constants, forms, kernels, layers, uses, writes
