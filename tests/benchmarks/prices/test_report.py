"""A claim holds where its hardest comparison does, and the page has every arm and every claim."""

from __future__ import annotations

import pytest
from helpers.benchmarks.prices import TINY, a_row

from benchmarks.prices.claims import CLAIMS, JointClaim, arm_of, judge, ranked
from benchmarks.prices.methods import ARMS, FULL, METHODS
from benchmarks.prices.report import page
from benchmarks.prices.settings import PriceRow
from benchmarks.results.journal import ArmJournal
from benchmarks.results.settings import Arm

NOISE = (0.0, 0.002, -0.002)
CLAIM = JointClaim("ours beats all", "csgd rows", ("scratch", "lasso"))


def found_with(**means):
    return {
        (arm := arm_of(name.replace("_", " "), "1/4")): [
            a_row(arm, seed, top1=mean + noise * number) for seed, noise in enumerate(NOISE)
        ]
        for number, (name, mean) in enumerate(means.items())
    }


@pytest.mark.parametrize(
    ("scratch", "lasso", "verdict", "hardest"),
    [
        (0.80, 0.70, "shown", "scratch"),
        (0.80, 0.8995, "not shown", "lasso"),
        (0.95, 0.8995, "contradicted", "scratch"),
        (0.95, 0.99, "contradicted", "lasso"),
    ],
)
def test_a_claim_holds_where_its_hardest_comparison_does(scratch, lasso, verdict, hardest):
    found = found_with(csgd_rows=0.9, scratch=scratch, lasso=lasso)
    (judged,) = judge(found, 0.0001, [CLAIM])
    assert (judged.verdict, judged.pair.second, judged.keep) == (verdict, Arm(hardest, "1/4"), "1/4")
    assert judged.judged == 2 and judged.gap.seeds == 3
    order = ranked(found, FULL, "1/4")
    assert [arm.name for arm in order] == sorted(("csgd rows", "scratch", "lasso"), key=lambda name: -{
        "csgd rows": 0.9, "scratch": scratch, "lasso": lasso
    }[name])  # fmt: skip


@pytest.mark.parametrize(("lasso", "verdict"), [(0.8, "no verdict yet"), (0.99, "contradicted")])
def test_a_claim_is_open_while_a_rival_is_missing(lasso, verdict):
    (judged,) = judge(found_with(csgd_rows=0.9, lasso=lasso), 0.0001, [CLAIM])
    assert (judged.verdict, judged.judged) == (verdict, 1)


def test_claims_compare_methods_that_exist():
    for claim in CLAIMS:
        assert claim.first in METHODS and set(claim.rivals) <= set(METHODS) and claim.first not in claim.rivals
        assert claim.rivals


def test_the_page_has_every_arm_and_every_claim(tmp_path):
    journal = ArmJournal(tmp_path / "prices.csv", PriceRow)
    for seed in range(3):
        for number, arm in enumerate(ARMS):
            facts = {"top1": round(0.5 + 0.001 * number, 3), "trimmed": 0.25, "agreement": 0.75, "cpu_seconds": 12.5}
            journal.add(a_row(arm, seed, parameters=1000 + number, macs=2_000_000, loss=0.5, **facts))
    text = page(journal, ARMS, TINY)
    for arm in ARMS:
        assert f"| {METHODS[arm.name].label} | 3 | " in text
    for claim in CLAIMS:
        assert f"| {claim.title} | 1/4 | **" in text
    assert "| 1 | 1.0 k | 2.00 M |" in text and "3 seeds" in text and "ResNet-8 with 4-8-16 channels" in text
    assert text.count("the best rival |") == 6 + 6  # a header and a row for each price and width
    assert "## Failed" not in text and ArmJournal(tmp_path / "prices.csv", PriceRow).rows == journal.rows
    journal.add(a_row(ARMS[0], 3, error="took too long"))
    assert "| wide 1 | 3 | took too long |" in page(journal, ARMS, TINY)
