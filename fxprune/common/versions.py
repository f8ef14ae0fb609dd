"""Name the processor and the versions that results and times depend on."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path


def versions() -> dict[str, str]:
    """Return the versions of everything that a measurement depends on."""
    packages = ("fxprune", "torch", "timm", "onnx", "onnxruntime", "scikit-learn")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
            continue
    return found


def processor() -> str:
    """Name the processor, or its family where the system does not tell more."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
