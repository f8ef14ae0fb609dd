"""The operators that take the time of wide and narrow networks."""
