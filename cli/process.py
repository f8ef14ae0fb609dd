"""Find the number of this process under torchrun, before torch is imported."""

from __future__ import annotations

import os


def process_number() -> int:
    """Return the number of this process, from 0; a single process has 0."""
    return int(os.environ.get("RANK", "0"))
