"""The page has every arm and every claim."""

from __future__ import annotations

from helpers.benchmarks.results import CSGD, TINY, WIDE, a_row

from benchmarks.results.claims import CLAIMS
from benchmarks.results.journal import ArmJournal
from benchmarks.results.report import LABELS, page
from benchmarks.results.settings import ARMS, BUDGETED, CLOCKS

CSGD_ARMS = ("csgd", "even", "imbalanced", "pacesetter", "staged", "finetuned", "squeezed", *BUDGETED)


def full_journal(path):
    journal = ArmJournal(path)
    for seed in range(3):
        for number, arm in enumerate(ARMS):
            slower = {"clock": 110.0, "clock64": 104.0 + seed, "clock256": 101.0}
            facts = {"top1": 0.9 + 0.001 * number}
            if arm.name in slower:
                facts = {"sgd_ms": 100.0, "csgd_ms": slower[arm.name]}
            facts |= {"trimmed": 0.1} if arm.name == "merged" else {"changed": 0} if arm.name in CSGD_ARMS else {}
            if arm.name == "csgd":
                facts |= {"changed": 0, "changed_by_snap": 1, "deviation": 1e-5, "error64": 1e-15, "trimmed": 0.9}
            journal.add(a_row(arm, seed, **facts))
    return journal


def test_the_page_has_every_arm_and_every_claim(tmp_path):
    journal = full_journal(tmp_path / "results.csv")
    text = page(journal, ARMS, TINY)
    for claim in CLAIMS:
        assert f"### {claim.title}\n" in text and f"| {claim.title} | {claim.pairs[0].first.width} | " in text
    for arm in ARMS:
        assert arm.name in CLOCKS or f"| {LABELS[arm.name]} | {arm.width} | 3 |" in text
    flowing = " ".join(text.split())
    assert "3 of them" in flowing and "W = 1 epochs" in flowing and "4-8-16 channels" in flowing
    assert "| 256 | 1.100 ± 0.000 | 110 ms | 100 ms | 3 | **contradicted** |" in text
    assert "| C-SGD is as fast as SGD | 5/8, batch 64 | not shown (1.050 ± 0.010 times as long) |" in text
    assert "| 256 | 1.010 ± 0.000 | 101 ms | 100 ms | 3 | **shown** |" in text
    assert "**Shown**: in 51 networks the trim changed the class of 0 test images" in text
    journal.add(a_row(CSGD, 0, top1=0.9, changed=1))
    assert "**Contradicted**: in 51 networks" in page(journal, ARMS, TINY)
    journal.add(a_row(WIDE, 3, error="took too long"))
    assert "| wide 1 | 3 | took too long |" in page(journal, ARMS, TINY)
