"""Narrow MobileNetV2 of ImageNet from a few photos, and write ``docs/reports/photos.md``.

Each point of the curves runs in one process. Results in ``docs/reports/photos.csv`` are not repeated: a stopped run
continues.
"""

from __future__ import annotations

import sys

from benchmarks.results import Table, run_table

from .curve import draw_curves
from .methods import ARMS, run
from .packages import check_packages
from .report import page
from .settings import QUICK, PhotoRow, PhotoSettings

TABLE = Table(
    name="photos",
    says=__doc__.splitlines()[0],
    arms=ARMS,
    settings=PhotoSettings(),
    quick=QUICK,
    seeds=1,
    run=run,
    page=page,
    kind=PhotoRow,
    preload=("benchmarks.photos.methods", "fxprune.passes.repair", "sklearn.cluster"),
    check=check_packages,
    figure=draw_curves,
)

if __name__ == "__main__":
    sys.exit(run_table(TABLE))
