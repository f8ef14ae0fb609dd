"""Lists what the analysis makes of every ATen operator, and tries those that freeze."""
