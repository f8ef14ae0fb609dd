"""Rewrite the captured graph by a plan: the result computes what the snapped network does."""

from .narrow import UNEQUAL, absorb, merged_by, merged_tensors, narrow, narrow_batches
from .site import WIDE
