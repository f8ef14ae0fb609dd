"""One table of channel rules, with one family of operators per file."""

from . import (
    contraction,
    grouped_products,
    joining,
    matrices,
    movement,
    normalise,
    places,
    pointwise,
    pool,
    reduce,
    tables,
    view,
    vision,
)
from .registry import RULES, rule
