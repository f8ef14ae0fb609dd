"""Time a network and narrow copies of it where it is to run, and plan by these times."""

from .budget import plan, plan_to, times_for
from .measure import latency_table, time_of
