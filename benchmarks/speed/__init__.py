"""Measure what fxprune costs, in turns with a peer in one process on one thread."""

from .figures import hook, made
