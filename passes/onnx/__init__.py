"""Export a network to ONNX, OpenVINO or a saved program, and check the file at several batch sizes."""

from .check import check_onnx
from .export import ExportReport, export_onnx
from .openvino import export_openvino
from .pt2 import export_pt2
from .runtime import load_onnxruntime, onnx_runner
