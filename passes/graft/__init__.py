"""Put narrow layers into the original class, where its own code computes the same."""

from .results import export_timm, timm_files
from .timm_folder import write_timm
from .transplant import graft
