"""Where flattened axes hold channels, for inputs of other sizes than the example's."""

from .calls import CUTS, STACKS, Part, is_constant
from .guarded import AxisOrders
from .lengths import Length, product_of

__all__ = ["CUTS", "STACKS", "AxisOrders", "Length", "Part", "is_constant", "product_of"]
