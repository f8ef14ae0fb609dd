"""Export a network to ONNX, OpenVINO or torch.export, and check the file at several batches."""

from .check import check_onnx
from .export import ExportReport, export_onnx
from .openvino import export_openvino
from .program import batches_of, eager_on_cpu
from .pt2 import export_pt2
from .runtime import load_onnxruntime, onnx_runner
