"""Networks that tests fill, feed or batch."""
