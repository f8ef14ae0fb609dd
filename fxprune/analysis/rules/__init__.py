"""Channel rules, one operator family per file, in one table."""

from fxprune.rules import contraction, movement, normalise, pointwise, pool, reduce, view, vision
from fxprune.rules.registry import RULES

__all__ = ["RULES", "contraction", "movement", "normalise", "pointwise", "pool", "reduce", "view", "vision"]
