"""Export a network to ONNX or to a saved program, and check the file at several batch sizes."""

from .check import check_onnx
from .export import ExportReport, export_onnx
from .pt2 import export_pt2
from .runtime import load_onnxruntime, onnx_runner
