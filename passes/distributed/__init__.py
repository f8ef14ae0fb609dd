"""Share one training among processes; the batches are those of a single one."""

from .ranks import ALONE, Ranks, joined
from .sharding import LocalBatch, local_batches
