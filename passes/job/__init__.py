"""The main job: train wide, plan, C-SGD, trim, verify, export, measure; each phase resumes where it was stopped."""

from .compression import compress
