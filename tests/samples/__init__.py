"""Samples, in one file per file of rules; in ``interactions`` what no rule decides alone."""

from . import (
    contraction,
    indexing,
    interactions,
    joining,
    masks,
    matrices,
    movement,
    normalisation,
    pointwise,
    pooling,
    products,
    reduction,
    uniformity,
    view,
    vision,
)
from .table import SAMPLES, Net, Sample, conv, free, linear

__all__ = [
    "SAMPLES", "Net", "Sample", "contraction", "conv", "free", "indexing", "interactions", "joining", "linear", "masks",
    "matrices", "movement", "normalisation", "pointwise", "pooling", "products", "reduction", "uniformity", "view",
    "vision",
]  # fmt: skip
