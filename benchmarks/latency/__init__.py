"""Compares the time that a latency budget asks for with the time that the narrow network takes."""
