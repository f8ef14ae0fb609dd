"""Supply what PyTorch's modules, graphs and operators lack; import files by their own names."""
