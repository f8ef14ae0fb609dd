"""Jobs, their options, and the folders that they write."""
