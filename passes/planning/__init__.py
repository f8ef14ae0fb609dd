"""Turn a coupling and a budget into a plan: the width of each group and its clusters."""

from .edits import load_plan
from .features import features, projected, rows_of
from .kmeans import kmeans
from .multiples import odd_in_words, odd_widths
from .plan import plan
from .stages import REMOVED, compose, stage_plan, stage_shares, stage_widths
from .units import Unit, units_of
from .widths import as_share, excess, narrowest, refined, widths_for, widths_near
