"""Samples, in one file per file of rules; in ``across`` what no rule decides alone."""

from . import (
    across,
    contraction,
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
    uniform,
    view,
    vision,
)
from .table import SAMPLES, Net, Sample, conv, free, linear

__all__ = [
    "SAMPLES", "Net", "Sample", "across", "contraction", "conv", "free", "joining", "linear", "masks", "matrices",
    "movement", "normalise", "places", "pointwise", "pool", "products", "reduce", "uniform", "view", "vision",
]  # fmt: skip
