"""What the tests of benchmarks share."""
