"""A plan is written into the graph, whose narrow parameters, sizes and layers compute what the snapped network does."""

from .narrow import UNEQUAL, merged_by, narrow
from .site import WIDE
