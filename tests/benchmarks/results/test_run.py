"""Every arm runs, ends where it should, and shares the wide network of its seed."""

from __future__ import annotations

import functools

import pytest
from helpers.benchmarks.results import TINY, WIDE

from benchmarks.results import run as results_run
from benchmarks.results.bench import ArmTask, Bench
from benchmarks.results.clock import step_times
from benchmarks.results.journal import row_of
from benchmarks.results.run import run
from benchmarks.results.settings import BUDGETED, CLOCKS, Arm, digest
from fxprune.models_zoo.networks import CifarResNet


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch):
    """One block in each stage: what more of them take most of the time for shows nothing more."""
    monkeypatch.setattr("benchmarks.results.bench.resnet20", functools.partial(CifarResNet, 1))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The folder of what the arms share, the wide network of seed 0 above all."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("arm", ["csgd", "l1", "lasso", "merged", "staged", "squeezed", "clock", "clock64"])
def test_arms_run(arm, cache, monkeypatch):
    facts = {}
    monkeypatch.setattr(results_run, "step_times", functools.partial(step_times, pairs=2))
    arm = Arm(arm, "1/2")
    run(ArmTask(arm, 0, TINY, cache), lambda **told: facts.update(told))
    row = row_of(arm, 0, TINY, facts)
    assert row.digest == digest(arm, TINY)
    if arm.name in CLOCKS:
        assert row.sgd_ms > 0 and row.csgd_ms > 0
        return
    assert 0.0 <= row.top1 <= 1.0 and row.loss > 0 and 0.0 <= row.before <= 1.0 and 0.0 <= row.trimmed <= 1.0
    assert row.parameters < 1750 and row.macs < 15_500  # a quarter of 5,142 and of 49,568, and the ends
    if arm.name in ("csgd", "staged", "squeezed"):
        # float64: sums of a few hundred terms
        assert row.changed == 0 and row.error64 < 1e-12 and row.deviation < 1e-2


def test_the_arms_of_a_seed_share_the_wide_network(tmp_path, monkeypatch):
    run(ArmTask(WIDE, 0, TINY, tmp_path), lambda **_: None)
    monkeypatch.setattr(Bench, "fresh", lambda *_: pytest.fail("trained again"))
    first, second = {}, {}
    run(ArmTask(Arm("merged", "5/8"), 0, TINY, tmp_path), first.update)
    run(ArmTask(Arm("merged", "5/8"), 0, TINY, tmp_path), second.update)
    assert {**first, "train_seconds": 0} == {**second, "train_seconds": 0}
    with pytest.raises(BaseException, match="trained again"):
        run(ArmTask(Arm("merged", "5/8"), 1, TINY, tmp_path), first.update)


@pytest.mark.parametrize("name", BUDGETED)
def test_arms_at_a_share_of_the_macs_end_there(name, cache):
    facts, whole = {}, 49_568
    run(ArmTask(Arm(name, "3/10"), 0, TINY, cache), lambda **told: facts.update(told))
    assert facts["macs"] == pytest.approx(0.3 * whole, rel=0.05)  # so narrow a network has few widths to choose from
    assert facts["changed"] == 0 and facts["error64"] < 1e-12 and 0.0 <= facts["top1"] <= 1.0
