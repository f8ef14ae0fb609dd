"""Trace a model with proxies, which answer what its Python code asks of a tensor."""
