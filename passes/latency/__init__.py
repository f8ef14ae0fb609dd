"""Time a network and narrow copies of it in the runtime where it is to run."""

from .measure import latency_table, time_of
