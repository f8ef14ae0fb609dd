"""Measure the parts of a training, and add up what a run of ImageNet size costs."""
