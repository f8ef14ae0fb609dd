"""The command line: one file per command; torch is imported when a command runs, not before."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
