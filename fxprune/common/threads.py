"""One thread at a time: a trace replaces functions of PyTorch, which all threads share."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_lock = threading.RLock()


class _Block:
    """What is known of threads while one of them is inside :func:`one_thread`."""

    def __init__(self) -> None:
        self.inside: threading.Thread | None = None
        self.joined: set[threading.Thread] = set()  # they work for the one inside
        self.apart: set[threading.Thread] = set()  # something that they did was not recorded


_block = _Block()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let one thread run such blocks at a time; another one waits. A thread may enter again."""
    with _lock:
        outermost = _block.inside is None
        if outermost:
            _block.inside = threading.current_thread()
        try:
            yield
        finally:
            if outermost:
                _block.__init__()  # type: ignore[misc]


def is_stranger() -> bool:
    """Tell whether another thread runs than the one in such a block, and does not work for it.

    What it does now is not recorded.
    """
    if _block.inside is None:
        return False
    thread = threading.current_thread()
    if thread is _block.inside or thread in _block.joined:
        return False
    _block.apart.add(thread)
    return True


def joins() -> bool:
    """Note that this thread works for the one in the block; False: something was not recorded."""
    thread = threading.current_thread()
    if thread is _block.inside or _block.inside is None:
        return True
    _block.joined.add(thread)
    return thread not in _block.apart


def _renew() -> None:
    global _lock, _block
    _lock, _block = threading.RLock(), _Block()


if hasattr(os, "register_at_fork"):  # in a child, the thread that held it does not exist
    os.register_at_fork(after_in_child=_renew)
