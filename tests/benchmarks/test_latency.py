"""The rows of the budgets of time resume, and their page says how far they are off."""

from __future__ import annotations

import pytest

from benchmarks.latency import __main__ as latency
from fxprune.costs import cost


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "REPORTS", tmp_path / "reports")
    return tmp_path / "reports"


def test_a_row_is_measured_once(monkeypatch, reports):
    done = []

    def measured(name, runtime, goal):
        done.append((name, runtime, goal))
        numbers = {"goal": goal, "predicted": 0.51, "measured": 0.49, "macs": 0.4, "params": 0.4, "wide_ms": 9.0}
        return {"network": name, "runtime": runtime, "batch": 1, **numbers, "timed": 3}

    monkeypatch.setattr(latency, "measured", measured)
    for more in ([], ["--latency", "0.5", "0.7"]):
        assert latency.main(["--networks", "a", "b", "--runtimes", "eager", *more]) == 0
    assert done == [("a", "eager", 0.5), ("b", "eager", 0.5), ("a", "eager", 0.7), ("b", "eager", 0.7)]
    page = (reports / "latency.md").read_text()
    assert "| a | eager | 1 | 0.5 | 0.51 | 0.49 (-2.0%) | 0.4 | 0.4 | 9.0 | 3 |" in page
    assert (reports / "latency.csv").read_text().count("\n") == 5


def test_a_row_compares_what_was_asked_with_what_was_timed(monkeypatch):
    def time(_stopwatch, plan):
        return 20.0, 0.2 + 0.8 * cost(plan).macs / cost(plan.coupling).macs

    monkeypatch.setattr("fxprune.passes.latency.measure._WideTimer.time", time)
    monkeypatch.setattr(latency, "SIZE", 32)
    row = latency.measured("resnet18", "eager", 0.5)
    assert list(row) == list(latency.FIELDS)
    assert row["predicted"] == pytest.approx(row["measured"], rel=0.02)
    assert row["measured"] == pytest.approx(0.5, rel=0.05)
