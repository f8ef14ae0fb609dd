"""The fuzz of networks counts, shrinks what fails, goes on where it was, and tells all of it in its page."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from helpers.faults import first_columns
from torch import nn

from benchmarks import trust_page
from benchmarks.fuzz import chunks as fuzz_chunks
from benchmarks.fuzz import networks_report as fuzz_networks_report
from benchmarks.fuzz.chunks import Chunk, failures_of, known
from benchmarks.fuzz.networks import work
from benchmarks.random_networks.choices import choices_of, network_of, shrunk
from benchmarks.random_networks.oracles import unstable
from fxprune.analysis.rules import RULES


def told(chunk):
    facts = {}
    work(chunk, lambda **more: facts.update(more))
    return facts


def test_a_chunk_tells_operators_and_rules():
    before = dict(RULES)
    facts = told(Chunk(1, 3, 4))
    assert facts["failures"] == [] and facts["at"] == 3
    assert facts["counts"]["figures"]["networks"] == 3 and facts["counts"]["operations"]["stem"] == 3
    assert facts["counts"]["rules"]["convolution.convolution"] and facts["counts"]["operators"]["convolution"]
    assert before == RULES


def test_a_network_that_fails_is_told_in_small(monkeypatch):
    # The package hands out a function of this name.
    monkeypatch.setattr(sys.modules["fxprune.passes.merge.concentrate"], "cluster_sum", first_columns)
    monkeypatch.setattr(fuzz_chunks, "SECONDS_TO_SHRINK", 3.0)
    (text,) = told(Chunk(0, 1, 6))["failures"]
    assert text.startswith("seed 0: Wrong: concentrated: ") and "head classes" in text and "choices [" in text


class Cancelled(nn.Module):
    """The same sum twice, in another order: the difference is rounding, unless one is doubled."""

    def __init__(self, times):
        super().__init__()
        self.p, self.times = nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)).double()), times

    def forward(self, x):
        return x * (self.times * self.p.sum() - self.p.flip(0).cumsum(0)[-1])


def test_what_rounding_decides_shows_nothing():
    given = [(torch.ones(2, 3).double(),)]
    assert unstable(Cancelled(1), given) and not unstable(Cancelled(2), given)


def test_choices_shrink_to_the_smallest_that_fails():
    assert shrunk([5, 9, 0, 7, 3, 8], lambda choices: 7 in choices, seconds=10) == [7]
    assert shrunk([50, 9], lambda choices: sum(choices) > 20, seconds=10) == [21]
    assert shrunk([5, 9], lambda choices: True, seconds=0) == [5, 9]


def test_choices_make_the_same_network_again():
    choices = choices_of(7, 8)
    assert str(network_of(choices, 8)) == str(network_of(choices, 8)) and len(choices) > 10
    assert "#0 = stem" in str(network_of([], 8))


def test_a_journal_may_be_cut_off(tmp_path):
    rows = [{"chunk": {"first": at, "networks": 1, "most": 4}, "digest": "x"} for at in (0, 1)]
    path = tmp_path / "networks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"chunk": {"fir')
    assert known(path).keys() == {0, 1} and known(tmp_path / "none") == {}
    assert failures_of({**rows[0], "error": "took too long", "at": 0}) == [
        "chunk from seed 0, after seed 0: took too long"
    ]


def test_sections_are_replaced_one_by_one(tmp_path):
    page = tmp_path / "reports" / "trust.md"
    for title, text in (("Precision", "one"), ("Another", "two"), ("Random networks", "three"), ("Precision", "four")):
        trust_page.write_section(title, text, page)
    assert trust_page.sections(page.read_text()) == {"Random networks": "three", "Precision": "four", "Another": "two"}
    assert list(trust_page.sections(page.read_text())) == ["Random networks", "Precision", "Another"]


@pytest.mark.parametrize("failures", [[], ["seed 1: Wrong: narrow"]])
def test_the_page_tells_counts_and_failures(failures, monkeypatch):
    written = {}
    monkeypatch.setattr(fuzz_networks_report, "write_section", written.__setitem__)
    figures = {"networks": 3, "alone": 4, "found": 3, "gaps": 1, "gaps: an index picks positions": 1}
    counts = {"figures": figures, "rules": {"view.view": 2}}
    row = {"chunk": {"first": 0, "networks": 3}, "digest": "now", "counts": counts, "failures": failures}
    fuzz_networks_report.write_report({0: row}, "now")
    assert f"3 networks (seeds 0 to 2; 3 of them on the present sources): {len(failures)} failed" in " ".join(
        written["Random networks"].split()
    )
    assert all(text in written["Random networks"] for text in ["`view.view` 2", *failures])
    assert "| an index picks positions | 1 | 0 | 0 |" in written["Precision"] and "75.0%" in written["Precision"]
