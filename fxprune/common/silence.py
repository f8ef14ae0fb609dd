"""Silence what libraries print, log and warn in a block."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from .threads import one_thread


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Discard everything that libraries print, log or warn in the block; exceptions pass."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            one_thread(),
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(before)
