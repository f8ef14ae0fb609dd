"""The command line has one file per command; torch is imported only when a command runs."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
