"""Verdicts follow from the numbers."""

from __future__ import annotations

import math

import pytest
from helpers.benchmarks.results import CSGD, SCRATCH, a_row

from benchmarks.results.claims import ArmPair, difference

PAIR = ArmPair(CSGD, SCRATCH)


@pytest.mark.parametrize(
    ("first", "second", "verdict", "if_equal"),
    [
        ([0.98, 0.97, 0.99], [0.93, 0.92, 0.94], "shown", "shown, and better"),
        ([0.93, 0.92, 0.94], [0.98, 0.97, 0.99], "contradicted", "contradicted"),
        ([0.95, 0.97, 0.96], [0.96, 0.96, 0.95], "not shown", "not contradicted: no difference beyond the spread"),
        ([0.951, 0.951, 0.951], [0.95, 0.95, 0.95], "not shown", "not contradicted: no difference beyond the spread"),
        ([0.98], [0.50], "no verdict yet", "no verdict yet"),
    ],
)
def test_verdicts_follow_from_the_spread(first, second, verdict, if_equal):
    found = {
        CSGD: [a_row(CSGD, seed, top1=value) for seed, value in enumerate(first)],
        SCRATCH: [a_row(SCRATCH, seed, top1=value) for seed, value in enumerate(second)],
    }
    gap = difference(PAIR, found, least=0.001)
    assert gap.seeds == len(first) and (gap.verdict(False), gap.verdict(True)) == (verdict, if_equal)


def test_the_interval_is_student_t_over_pairs():
    found = {
        CSGD: [a_row(CSGD, seed, top1=value) for seed, value in ((0, 0.92), (1, 0.93), (2, 0.97), (5, 0.1))],
        SCRATCH: [a_row(SCRATCH, seed, top1=0.9) for seed in (0, 1, 2)],
    }
    gap = difference(PAIR, found, least=0.001)
    spread = math.sqrt(((0.02 - 0.04) ** 2 + (0.03 - 0.04) ** 2 + (0.07 - 0.04) ** 2) / 2)
    assert gap.mean == pytest.approx(0.04) and gap.half == pytest.approx(4.302653 * spread / math.sqrt(3))
