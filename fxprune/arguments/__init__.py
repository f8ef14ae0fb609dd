"""Describe the inputs and outputs of a network; import files by their own names."""
