"""One table of channel rules, with one family of operators per file."""

from . import (
    convolution,
    joining,
    matrices,
    movement,
    normalise,
    places,
    pointwise,
    pool,
    products,
    reduce,
    tables,
    view,
    vision,
)
from .registry import RULES, rule
