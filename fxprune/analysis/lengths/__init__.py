"""Some axes are as long for all inputs; the lengths of others change, and what counts them.

It sees what lies below the state of an analysis: ``channels``, ``labels`` and ``marks``.
"""

from .einsum import settle_lengths
from .factors import factors_behind, factors_of, is_fixed
from .inputs import InputLengths, LayerInputs, bounds_at, freeze_cuts, is_broadcast
