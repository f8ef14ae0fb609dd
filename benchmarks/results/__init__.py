"""Compare C-SGD with other methods at equal epochs, on real images, over several seeds."""
