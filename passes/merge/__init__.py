"""Snap makes the rows of a cluster equal; merge sums the columns that read them."""

from .clusters import Clusters, cluster_mean, doubled, largest_change, on_device, project, rows_equal, spread
from .concentrate import captured_with, concentrate, merged_state
from .expand import expand
from .settle import settle, unsettled
from .snap import snap, warn_of_hooks
