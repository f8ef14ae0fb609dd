"""What the processes of the tests need, loaded before they are forked."""

from __future__ import annotations

import tempfile
from pathlib import Path

import scipy.optimize  # noqa: F401  (of C-SGD)
import sklearn.cluster  # noqa: F401  (of the plan)
import torch

import fxprune
import fxprune.passes.job.compression
from helpers.jobs import compression
from helpers.onnx_table import keep_table

from . import ranks_worker  # noqa: F401

torch.set_num_threads(1)
keep_table()(opset_version=20)
# The exporter loads four hundred modules where it first runs.
with tempfile.TemporaryDirectory() as folder:
    fxprune.export_onnx(compression.Tiny().eval(), torch.empty(2, 1, 8, 8), Path(folder, "tiny.onnx"))
