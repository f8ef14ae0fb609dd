"""Trace a model with proxies, which answer what its Python code asks of a tensor."""

from .concrete_trace import ConcreteTracer
from .custom_functions import CUSTOM_GRADIENTS
from .function_wraps import keeps_functions
from .keys import modules_by_identity
from .mode_recorder import ObjectAskedError
from .own_tensors import reads_any
from .placeholders import arguments
from .symbolic_trace import SymbolicTracer
