"""Check that a graph and its model agree in two calls, eval and training mode, and autocast."""

from .attributes import attributes_set
from .comparison import UNCHECKED, Difference, difference, gradients_difference
from .contents import configuration_of
from .example_values import values_of
from .mode_differences import GRADIENTS, Mode
from .observation import Certain, differs, try_to_observe
from .preservation import preserved, unchanged
from .programs import RANK, Programs
from .size_difference import at_other_sizes
