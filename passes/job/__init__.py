"""Run the main job: train wide, plan, C-SGD, trim, verify, export, measure; phases resume."""

from fxprune.passes.options import Job

from .compression import compress
