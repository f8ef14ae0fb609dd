"""One table of channel rules, with one family of operators per file."""

from . import (
    convolution,
    indexing,
    joining,
    matrices,
    movement,
    normalisation,
    pointwise,
    pooling,
    products,
    reduction,
    tables,
    view,
    vision,
)
from .registry import RULES, rule
