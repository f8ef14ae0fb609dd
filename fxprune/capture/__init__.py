"""A model becomes a graph that computes what the model does, or is refused with the line that stands in the way."""

from .trace import WAYS, capture, captures
