"""Samples, in one file per file of rules; in ``across`` what no rule decides alone."""

from . import (
    across,
    contraction,
    indexing,
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
    "SAMPLES",
    "Net",
    "Sample",
    "across",
    "contraction",
    "conv",
    "free",
    "indexing",
    "joining",
    "linear",
    "masks",
    "matrices",
    "movement",
    "normalisation",
    "pointwise",
    "pooling",
    "products",
    "reduction",
    "uniformity",
    "view",
    "vision",
]  # fmt: skip
