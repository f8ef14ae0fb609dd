"""Time steps of C-SGD and of plain SGD in turns, in one process."""

from __future__ import annotations

import copy
import itertools
import time
from statistics import median

import torch
from torch import nn

import fxprune
from fxprune.models_zoo.data import Data
from fxprune.plans import Plan

from .settings import Settings
from .train import optimizer_for, take_step


def step_times(model: nn.Module, plan: Plan, data: Data, settings: Settings, pairs: int = 60) -> tuple[float, float]:
    """Measure the median seconds of a step of plain SGD and of C-SGD, forward pass included.

    The two take turns, so that other load of the machine affects both; the first three pairs do not count.
    """
    networks = [copy.deepcopy(model).train().to(memory_format=torch.channels_last) for _ in range(2)]  # type: ignore[call-overload]
    optimizers = [optimizer_for(network, settings, settings.more_lr) for network in networks]
    seconds: tuple[list[float], list[float]] = ([], [])
    batches = itertools.islice(itertools.cycle(data.train), pairs + 3)
    with fxprune.csgd(networks[1], plan, optimizers[1], strength=3e-3):
        for images, labels in batches:
            for network, optimizer, times in zip(networks, optimizers, seconds, strict=True):
                start = time.perf_counter()
                take_step(network, optimizer, images, labels)
                times.append(time.perf_counter() - start)
    return median(seconds[0][3:]), median(seconds[1][3:])
