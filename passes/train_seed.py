"""Random numbers that follow from a seed, without disturbing anybody else's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(*seed: int) -> Iterator[None]:
    """Inside, what torch, NumPy and Python draw follows from ``seed``; outside, their streams go on undisturbed.

    Args:
        *seed: numbers of at least 0, such as a seed and an epoch: other numbers, other draws.
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
