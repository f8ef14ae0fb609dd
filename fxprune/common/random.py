"""Draw random numbers from a seed without changing other streams."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(*seed: int) -> Iterator[None]:
    """Seed torch, NumPy and Python inside the block; then their streams continue as before.

    Args:
        *seed: numbers of at least 0, such as a seed and an epoch; other numbers give other draws.
    """
    streams = random.getstate(), np.random.get_state()
    drawn = int(np.random.SeedSequence(seed).generate_state(1)[0])
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(drawn)
        random.seed(drawn)
        np.random.seed(drawn)
        try:
            yield
        finally:
            random.setstate(streams[0])
            np.random.set_state(streams[1])
