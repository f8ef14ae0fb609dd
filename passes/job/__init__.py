"""Run the main job: train wide, plan, C-SGD, trim, verify, export, measure; phases resume."""

from fxprune.passes.options import Job

from .compression import compress
from .folding import fold_job
from .prepare import images_for
