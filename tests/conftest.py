"""Two workers on two cores: each computes on one, so that they do not get in each other's way."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
