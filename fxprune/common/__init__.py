"""Code that several rooms share, one concept per file; import files by their own names."""
