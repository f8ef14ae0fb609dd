"""Which classes of timm take narrow layers back, as ``docs/reports/graft.*`` tell."""

from .rows import read_rows
