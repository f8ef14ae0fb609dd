"""The command line; torch is imported only when a command runs."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
