"""Narrow networks beside the wide ones that they come from."""
