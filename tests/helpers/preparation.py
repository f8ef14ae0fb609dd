"""What a process that runs tests makes ready before it collects them."""

from __future__ import annotations

import random

import numpy as np
import torch

from fxprune import costs

from .onnx_table import keep_programs, keep_table
from .processes.fork_server import preload

torch.set_num_threads(1)

keep_table()
keep_programs()
preload()
# No test looks at how long something takes: what is timed, is timed shortly.
for timed in (costs.latency, costs.alternated):
    timed.__kwdefaults__["seconds"] = 0.01


def seed_all():
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # `torch.manual_seed` keeps a stack for each device, too


seed_all()  # networks that are made where tests are collected
