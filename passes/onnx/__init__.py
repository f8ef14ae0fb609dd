"""Export a network to ONNX and check it in onnxruntime at several batch sizes."""

from .check import check_onnx
from .export import ExportReport, export_onnx
from .runtime import load_onnxruntime, onnx_runner
