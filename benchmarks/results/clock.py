"""Time of a step with C-SGD over that of a plain one, in one process, step by step in turn."""

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
    """Median seconds of a step of plain SGD and of one with C-SGD, from the forward pass on.

    The two take turns, so that what else the machine does falls on both; the first three pairs do not count.
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
