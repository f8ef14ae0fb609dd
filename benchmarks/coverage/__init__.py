"""A network of every class of timm and torchvision, checked from coupling to ONNX."""
