"""End this process where a computation takes too long, whatever it is."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def deadline(seconds: float | None, say: Callable[[], None]) -> Iterator[None]:
    """Inside, the process has so many seconds; then it speaks and ends with exit code 1.

    No exception could do so: a call of PyTorch or onnxruntime is not interrupted by one. Other threads run meanwhile,
    as this one does.
    """
    if seconds is None:
        yield
        return

    def end() -> None:
        say()
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
