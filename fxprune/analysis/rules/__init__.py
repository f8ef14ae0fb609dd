"""Channel rules, one operator family per file, in one table."""

from . import contraction, movement, normalise, pointwise, pool, reduce, view, vision
from .registry import RULES, rule
