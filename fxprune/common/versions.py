"""The versions that results and times depend on."""

from __future__ import annotations

import importlib.metadata
import platform


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
