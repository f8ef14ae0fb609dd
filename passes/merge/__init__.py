"""Rows of a cluster become equal (snap), columns that read them are summed: the network computes the same."""

from .captured import captured_with
from .clusters import Segments, cluster_mean, even, is_even, largest_change, segments, spread
from .concentrate import concentrate, kept_state
from .expand import lift
from .settle import settle, unsettled
from .snap import snap, tensors_of
