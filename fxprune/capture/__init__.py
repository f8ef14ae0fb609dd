"""Turn a model into a graph that computes the same, or raise an error with the line."""

from .custom_functions import CUSTOM_GRADIENTS
from .exported import EvalOnly
from .outputs import without_objects
from .symbolic import SymbolicTracer
from .trace import WAYS, capture, captures
from .training_flag import ModeSwitch
