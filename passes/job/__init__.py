"""Run the main job: train wide, plan, C-SGD, trim, verify, export, measure; phases resume."""

from .compression import compress
