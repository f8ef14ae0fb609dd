"""One table of channel rules, with one family of operators per file."""

from . import contraction, movement, normalise, places, pointwise, pool, reduce, view, vision
from .registry import RULES, rule
