"""Compares the time that a budget asks for with what the narrow network takes."""
