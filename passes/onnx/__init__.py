"""A network becomes an ONNX file that onnxruntime computes alike at several batch sizes, or no file."""

from .check import check_onnx
from .export import ExportReport, export_onnx
from .runtime import load_onnxruntime, onnx_runner
