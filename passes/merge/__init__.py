"""Rows of a cluster become equal (snap), columns that read them are summed: the network computes the same."""

from .clusters import Clusters, cluster_mean, largest_change, on_device, project, rows_equal, spread
from .concentrate import captured_with, concentrate, kept_state
from .expand import expand
from .settle import settle, unsettled
from .snap import snap
