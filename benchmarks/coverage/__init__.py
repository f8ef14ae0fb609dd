"""Check a network of every class of timm and torchvision, from coupling to ONNX."""
