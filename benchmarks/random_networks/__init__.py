"""Networks drawn at random from everything that the rules know, and the oracles that check them."""
