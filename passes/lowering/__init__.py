"""Write a graph in PyTorch's own layers and functions, from closed lists."""

from .layers import LAYERS, layer_name
from .lower import lower
from .operators import methods, operator_name, operator_of, why_not
from .settings import build_layer, layer_settings, short_settings
from .values import MetaInterpreter, meta_values
