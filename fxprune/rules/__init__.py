"""Channel rules, one operator family per file."""
