"""Couplings written down by hand."""
