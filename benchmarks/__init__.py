"""Long runs that show what fxprune does, each with a page in ``docs/reports``."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
