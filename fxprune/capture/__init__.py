"""Turn a model into a graph that computes the same, or raise an error with the line."""

from .export import EvalOnly
from .outputs import without_objects
from .trace import WAYS, capture, captures, refuse_training
from .tracing import CUSTOM_GRADIENTS, SymbolicTracer
from .training_flag import ModeSwitch
