"""Which of the processes that torchrun has started this is, known before torch is imported."""

from __future__ import annotations

import os


def process_number() -> int:
    """Number from 0; 0 where there is only one process."""
    return int(os.environ.get("RANK", "0"))
