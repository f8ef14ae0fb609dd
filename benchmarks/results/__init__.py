"""C-SGD and its rivals at equal epochs, on real images, over several seeds."""
