"""One thread at a time: a trace replaces functions of PyTorch, which all threads share."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_lock = threading.RLock()


class Block:
    """What is known of threads while one of them is ``inside`` such a block.

    In a child, all are strangers to the blocks of its parent.
    """

    def __init__(self, inside: threading.Thread | None) -> None:
        self._inside, self._process = inside, os.getpid()  # None: no block
        self._joined: set[threading.Thread] = set()  # they work for the one inside
        self._apart: set[threading.Thread] = set()  # something that they did was not recorded

    def is_stranger(self) -> bool:
        """Tell whether another thread runs than the one inside, and does not work for it."""
        return not self._is_inside() and threading.current_thread() not in self._joined

    def joins(self) -> bool:
        """Note that this thread works for the one inside; False: something was not recorded."""
        if self._is_inside():
            return True
        thread = threading.current_thread()
        self._joined.add(thread)
        return thread not in self._apart and self._process == os.getpid()

    def skips(self) -> None:
        """Note that what this thread does now is not recorded, as it is of the one inside."""
        self._apart.add(threading.current_thread())

    def _is_inside(self) -> bool:
        is_here = self._inside is threading.current_thread() and self._process == os.getpid()
        return self._inside is None or is_here


_block = Block(None)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let one thread run such blocks at a time; another one waits. A thread may enter again."""
    global _block
    with _lock:
        before, _block = _block, Block(threading.current_thread())
        try:
            yield
        finally:
            _block = before


def present_block() -> Block:
    """Return the innermost block; what replaces functions keeps that in which it did."""
    return _block


def _renew() -> None:
    """Forget in a child the thread that held the lock, which does not exist there."""
    global _lock, _block
    _lock, _block = threading.RLock(), Block(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
