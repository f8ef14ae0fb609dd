"""State a graph in PyTorch's own terms: its layers by their class and settings."""

from .settings import layer_settings
