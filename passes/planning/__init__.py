"""Turn a coupling and a budget into a plan: the width of each group and its clusters."""

from .features import projected, rows_of
from .greedy import lost_over_left, widths_by_loss
from .kmeans import kmeans
from .plan import plan
from .stages import REMOVED, compose, stage_plan, stage_shares, stage_widths
from .widths import widths_for
