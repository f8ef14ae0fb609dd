"""Samples, in one file per file of rules; in ``interactions`` what no rule decides alone."""

from . import (
    contraction,
    expansion,
    interactions,
    joining,
    masks,
    matrices,
    movement,
    normalise,
    places,
    pointwise,
    pool,
    products,
    reduce,
    view,
    vision,
)
from .table import SAMPLES, Net, Sample, conv, free, linear

__all__ = [
    "SAMPLES", "Net", "Sample", "contraction", "conv", "expansion", "free", "interactions", "joining", "linear",
    "masks", "matrices", "movement", "normalise", "places", "pointwise", "pool", "products", "reduce", "view", "vision",
]  # fmt: skip
