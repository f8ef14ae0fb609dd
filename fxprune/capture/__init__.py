"""Turn a model into a graph that computes the same, or raise an error with the line."""

from .trace import WAYS, capture, captures
