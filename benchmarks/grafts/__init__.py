"""Try which classes of timm take narrow layers back, and write ``docs/reports/graft.*``."""

from .rows import read_grafts
