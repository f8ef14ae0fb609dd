"""What more than one room needs, one concept a file; each file is imported by its own name, and imports no room."""
