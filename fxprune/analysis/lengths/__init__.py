"""Which lengths of axes are one number for all inputs, and what depends on the others."""

from .einsum import settle_lengths
from .factors import factors_behind, factors_of, is_fixed
from .inputs import InputLengths, LayerInputs, bounds_at, freeze_cuts, is_broadcast
