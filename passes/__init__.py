"""Passes act on a coupling: one verb per file, each a function on values."""
