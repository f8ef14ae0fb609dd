"""Compare C-SGD with other methods at equal epochs, on real images, over several seeds."""

from .bench import Bench, Task, cached
from .cells import mean_of, percent, spread_of
from .claims import Difference, Found, Pair, difference
from .command import Table, run_table
from .journal import Journal, Row
from .report import failed, points
from .run import train_lasso, train_scratch, train_wide
from .settings import Arm, Settings
from .squeeze import pull, squeeze
from .train import Loss, Score, cross_entropy, score
