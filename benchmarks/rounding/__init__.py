"""The rounding of narrow networks in every format."""
