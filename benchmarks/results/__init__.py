"""Compare C-SGD with other methods at equal epochs, on real images, over several seeds."""

from .bench import ArmTask, Bench, cached
from .cells import mean_of, percent_spread, spread_of
from .claims import ArmPair, Found, TopDifference, difference
from .command import Table, run_table
from .journal import ArmJournal, ArmRow
from .report import failed, points
from .run import train_lasso, train_scratch, train_wide
from .settings import Arm, Settings
from .squeeze import pull, squeeze
from .train import Loss, TestScore, cross_entropy, score
