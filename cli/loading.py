"""Import the libraries of every network at once."""

from __future__ import annotations

import gc
import sys


def load_libraries() -> None:
    """Import PyTorch and timm without looking for garbage, which is a fifth of the time.

    An import leaves hardly any. What it made stays as long as the process, so that later searches leave it out, too.
    """
    if "timm" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        import timm.models  # noqa: F401
    finally:
        gc.enable()
    gc.freeze()
