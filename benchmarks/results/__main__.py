"""Compare C-SGD with other methods on real images, and write ``docs/reports/results.md``.

Each arm and seed runs in one process. All arms of the first seed run first, then those of the next. Results in
``docs/reports/results.csv`` are not repeated: an interrupted run continues, and ``--seeds 5`` adds two seeds to three.
"""

from __future__ import annotations

import sys

from .command import Table, run_table
from .report import page
from .run import run
from .settings import ARMS, QUICK, Settings

TABLE = Table(
    name="results",
    says=__doc__.splitlines()[0],
    arms=ARMS,
    settings=Settings(),
    quick=QUICK,
    seeds=3,
    run=run,
    page=page,
    preload=("benchmarks.results.run", "fxprune.passes.verify", "sklearn.cluster", "timm.optim", "timm.scheduler"),
)

if __name__ == "__main__":
    sys.exit(run_table(TABLE))
