"""Samples, in one file per file of rules, and more for what no rule decides alone."""

from . import (
    constants,
    contraction,
    forms,
    kernels,
    layers,
    movement,
    normalise,
    pointwise,
    pool,
    products,
    reduce,
    uniform,
    uses,
    view,
    vision,
    writes,
)
from .table import SAMPLES, Net, Sample, conv, free, linear

__all__ = [
    "SAMPLES", "Net", "Sample", "constants", "contraction", "conv", "forms", "free", "kernels", "layers", "linear",
    "movement", "normalise", "pointwise", "pool", "products", "reduce", "uniform", "uses", "view", "vision", "writes",
]  # fmt: skip
