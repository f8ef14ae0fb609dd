"""Damaged folders and random networks, none of which may get in unnoticed."""
