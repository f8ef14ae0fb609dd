"""One table of channel rules, with one family of operators per file.

It sees ``call`` and what a call speaks of: ``channels``, ``labels``, ``lengths`` and ``operation``.
"""

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
    view,
    vision,
)
from .pointwise import POINTWISE
from .registry import RULES, Entry, entry_of, rule
