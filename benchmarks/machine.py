"""Describe this machine, and measure CPU seconds and memory on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from fxprune.common.versions import processor

MIB = 2**20


def machine() -> str:
    """Describe the processor and the versions that a figure depends on."""
    return f"{processor()}; " + ", ".join(
        f"{name} {_version(name)}" for name in ("torch", "timm", "onnxruntime", "torch-pruning")
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def cpu_seconds(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of this process that a call takes."""
    start = time.process_time()
    call()
    return time.process_time() - start


def in_turns(one: Callable[[], Any], other: Callable[[], Any], pairs: int) -> dict[str, float]:
    """Return the median ratio of two calls that take turns, and the median CPU seconds of each.

    Other load of the machine affects both calls of a pair. One pair before does not count.
    """
    taken = [(cpu_seconds(one), cpu_seconds(other)) for _ in range(pairs + 1)][1:]
    return {
        "ratio": median(a / b for a, b in taken),
        "one": median(a for a, _ in taken),
        "other": median(b for _, b in taken),
    }


def resident(peak: bool = False) -> float:
    """Return the MiB that this process holds, or held at most since :func:`forget_peak`."""
    key = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def forget_peak() -> None:
    """Measure the peak of memory from now on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
