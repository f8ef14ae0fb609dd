"""Draw random networks from everything that the rules know, and check them by oracles."""
