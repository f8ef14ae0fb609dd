"""Compare narrow networks at three prices: no labels, one epoch of them, a full training."""

from .reduce import remove_and_repair
