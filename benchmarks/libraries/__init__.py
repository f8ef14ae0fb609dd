"""Checks small networks of third-party libraries, as the coverage of timm does."""
