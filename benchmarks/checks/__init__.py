"""Check one network from coupling to ONNX, and keep the results."""
