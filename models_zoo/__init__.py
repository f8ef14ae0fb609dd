"""Networks, recipes and data."""
