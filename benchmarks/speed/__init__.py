"""Measure what fxprune costs: each figure a ratio, taken in turns within one process on one thread."""
