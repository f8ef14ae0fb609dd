"""Turn a model into a graph that computes the same, or raise an error with the line."""

from .export import EvalOnly
from .outputs import without_objects
from .trace import WAYS, capture, captures, refuse_training
from .tracing.custom_functions import CUSTOM_GRADIENTS
from .tracing.symbolic_trace import SymbolicTracer
from .training_flag import ModeSwitch
