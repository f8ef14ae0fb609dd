"""Long runs that show what fxprune does: coverage, results, photos, fuzz, mutation and rounding."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
