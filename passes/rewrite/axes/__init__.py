"""Where flattened axes hold channels, for inputs of other sizes than the example's."""

from .calls import is_constant
from .orders import AxisOrders

__all__ = ["AxisOrders", "is_constant"]
