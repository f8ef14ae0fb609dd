"""Two workers on two cores, each computing on one; every test begins with the same random numbers, alone or not."""

from __future__ import annotations

import random
import signal

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

# What a shell starts in the background does not hear Ctrl-C, nor do its children; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def seed_all():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


seed_all()  # networks that are made where tests are collected


@pytest.fixture(autouse=True)
def seeded():
    seed_all()
