"""Check that a graph and its model agree in two calls, eval and training mode, and autocast."""

from .compare import UNCHECKED, Difference, difference, gradients_difference
from .contents import configuration_of
from .example_values import values_of
from .kept_state import attributes_set
from .observation import Certain, differs, try_to_observe
from .other_modes import Mode
from .other_sizes import at_other_sizes
from .preserved import preserved, unchanged
from .programs import RANK, Programs
