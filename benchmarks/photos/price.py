"""Time a fold with fitted readers, and read the memory it takes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import timm
import torch

import fxprune
from benchmarks.results import ArmTask

from .settings import PhotoSettings

_KILO = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss


def time_fold(task: ArmTask, record: Callable[..., None], network: str) -> None:
    """Fold a network of timm from random images; random weights cost the same."""
    settings = task.settings
    assert isinstance(settings, PhotoSettings)
    torch.manual_seed(task.seed)
    wide = timm.create_model(network).eval()
    images = torch.randn(settings.price_images, 3, 224, 224)
    plan = fxprune.plan(fxprune.couple(wide, images[:2]), keep=task.arm.share, seed=task.seed)
    before, start = _peak(), time.process_time()
    fxprune.fold(wide, plan, images.split(32), repair="readers")
    seconds = time.process_time() - start
    record(cpu_seconds=seconds, memory=_peak(), memory_before=before, images=len(images))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KILO
