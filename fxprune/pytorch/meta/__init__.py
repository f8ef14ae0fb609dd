"""Run operators on the meta device, and tell values that follow without data."""

from .constants import MASKS, Picks, holds_places, note, on_meta, run_constant, run_picking, stays, value_of
from .kernels import OwnKernels, foretell, make_again, run_meta
from .picks import filled
