"""Stop a training on Ctrl-C or SIGTERM between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """The signal that asked to stop, or None."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Record the first Ctrl-C or SIGTERM inside the block; the second acts as it does outside.

    This works in the main thread only; other threads record nothing. A signal that is ignored outside stays ignored:
    Ctrl-C does not concern what a shell runs in the background.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {each: signal.getsignal(each) for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN}

    def restore() -> None:
        for each, handler in before.items():
            # None: the handler was not set from Python and cannot be restored
            signal.signal(each, signal.SIG_DFL if handler is None else handler)

    def note(number: int, _: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        restore()

    for each in before:
        signal.signal(each, note)
    try:
        yield request
    finally:
        restore()
