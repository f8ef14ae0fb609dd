"""Run operators on the meta device, and tell values that follow without data."""
