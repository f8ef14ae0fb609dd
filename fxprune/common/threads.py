"""One thread at a time: a trace replaces functions of PyTorch, which all threads share."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_lock = threading.RLock()


class _Block:
    """What is known of threads while one of them is inside :func:`one_thread`."""

    def __init__(self, inside: threading.Thread | None) -> None:
        self.inside = inside
        self.joined: set[threading.Thread] = set()  # they work for the one inside
        self.apart: set[threading.Thread] = set()  # something that they did was not recorded


_block = _Block(None)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let one thread run such blocks at a time; another one waits. A thread may enter again."""
    global _block
    thread = threading.current_thread()
    with _lock:
        before = _block
        if before.inside is not thread:
            _block = _Block(thread)
        try:
            yield
        finally:
            _block = before


def is_stranger() -> bool:
    """Tell whether another thread runs than the one in such a block, and does not work for it.

    What it does now is not recorded.
    """
    thread, block = threading.current_thread(), _block
    if block.inside in (None, thread) or thread in block.joined:
        return False
    block.apart.add(thread)
    return True


def joins() -> bool:
    """Note that this thread works for the one in the block; False: something was not recorded."""
    thread, block = threading.current_thread(), _block
    if block.inside in (None, thread):
        return True
    block.joined.add(thread)
    return thread not in block.apart


def _renew() -> None:
    """Forget in a child the thread that held the lock, which does not exist there."""
    global _lock, _block
    _lock = threading.RLock()
    if _block.inside not in (None, threading.current_thread()):
        _block = _Block(threading.Thread())  # so that any thread is a stranger to what stays replaced


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
