"""What the processes of the tests need, loaded before they are forked."""

from __future__ import annotations

import torch

from . import ranks_worker, small_job  # noqa: F401
from .onnx_table import keep_table

torch.set_num_threads(1)
keep_table()(opset_version=20)
