"""A graph and its model agree: two calls, eval and training mode, autocast, outputs, buffers, random numbers."""

from .compare import UNCHECKED, Difference, difference
