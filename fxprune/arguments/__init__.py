"""What goes into a network and comes out of it; import files by their own names."""
