"""What the processes of the tests need, loaded before they are forked."""

from __future__ import annotations

import torch

from helpers.jobs import small_job  # noqa: F401
from helpers.onnx_table import keep_table

from . import ranks_worker  # noqa: F401

torch.set_num_threads(1)
keep_table()(opset_version=20)
