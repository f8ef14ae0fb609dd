"""Small settings, a bench and rows for the tests of the table of prices."""

from __future__ import annotations

from benchmarks.prices.bench import bench_of
from benchmarks.prices.settings import PriceRow, PriceSettings
from benchmarks.results.bench import ArmTask
from benchmarks.results.journal import row_of
from benchmarks.results.settings import Arm

TINY = PriceSettings(
    data="digits",
    image_size=8,
    batch_size=256,
    width=0.25,
    wide_epochs=1.0,
    more_epochs=1.0,
    train_images=512,
    images=96,
)


def a_row(arm, seed, **facts):
    return row_of(arm, seed, TINY, facts, PriceRow)


def a_bench(folder, seed=0):
    return bench_of(ArmTask(Arm("wide", "1"), seed, TINY, folder), lambda **_: None)
