"""Compare narrow networks at three prices, and write ``docs/reports/prices.md``.

Each arm and seed runs in one process. All arms of the first seed run first, then those of the next. Results in
``docs/reports/prices.csv`` are not repeated: an interrupted run continues, and ``--seeds 6`` adds two seeds to four.
"""

from __future__ import annotations

import sys

from benchmarks.results import Table, run_table

from .methods import ARMS, run
from .report import page
from .settings import QUICK, PriceRow, PriceSettings

TABLE = Table(
    name="prices",
    says=__doc__.splitlines()[0],
    arms=ARMS,
    settings=PriceSettings(),
    quick=QUICK,
    seeds=4,
    run=run,
    page=page,
    kind=PriceRow,
    preload=("benchmarks.prices.methods", "fxprune.passes.verify", "sklearn.cluster", "timm.optim", "timm.scheduler"),
)

if __name__ == "__main__":
    sys.exit(run_table(TABLE))
