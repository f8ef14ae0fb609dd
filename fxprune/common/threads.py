"""One thread at a time: a trace replaces functions of PyTorch, which all threads share."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_lock, _inside = threading.RLock(), 0


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let one thread run such blocks at a time; another one waits. A thread may enter again."""
    global _inside
    with _lock:
        before, _inside = _inside, threading.get_ident()
        try:
            yield
        finally:
            _inside = before


def is_other_thread() -> bool:
    """Tell whether another thread is in such a block: what it replaced is not for this one."""
    return _inside not in (0, threading.get_ident())


def _renew() -> None:
    global _lock, _inside
    _lock, _inside = threading.RLock(), 0


if hasattr(os, "register_at_fork"):  # in a child, the thread that held it does not exist
    os.register_at_fork(after_in_child=_renew)
