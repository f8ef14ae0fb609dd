"""Put narrow layers into the original class, where its own code computes the same."""

from .results import export_timm, grafted_from, timm_files
from .timm_folder import write_timm
from .transplant import graft
