"""Narrow copies are timed until one takes the time that is asked for; the times are faked."""

from __future__ import annotations

import pytest
import torch
from helpers.command_line import Small
from helpers.couplings.tower import tower

import fxprune
from fxprune.common import progress
from fxprune.costs import PairedTimes, alternated, cost
from fxprune.errors import OptionError
from fxprune.passes.latency import measure, time_of


@pytest.fixture
def coupling():
    _model, coupling = tower(16, 48, 96, 48, 8)
    return coupling


@pytest.fixture
def curve(monkeypatch):
    """Let the time be a function of the MACs, and remember what was timed."""
    timed = []

    def of(function):
        def time(_stopwatch, plan):
            timed.append(cost(plan).macs / cost(plan.coupling).macs)
            return 20.0, function(timed[-1])

        monkeypatch.setattr(measure._WideTimer, "time", time)
        return timed

    return of


@pytest.mark.parametrize("goal", [0.9, 0.5, 0.3])
@pytest.mark.parametrize(
    "function",
    [lambda m: m, lambda m: 0.2 + 0.8 * m, lambda m: m**0.5, lambda m: m**1.5, lambda m: round(m * 32) / 32],
    ids=["linear", "overhead", "root", "steep", "steps"],
)
def test_few_copies_are_enough(coupling, curve, goal, function):
    timed = curve(function)
    table = fxprune.latency_table(coupling, goal, runtime="eager")
    plan = fxprune.plan(coupling, latency=goal, latency_table=table, method="even")
    assert len(timed) <= 7
    assert function(cost(plan).macs / cost(coupling).macs) == pytest.approx(goal, rel=0.1)


def test_a_plan_measures_where_there_is_no_table(coupling, curve):
    timed = curve(lambda m: 0.2 + 0.8 * m)
    plan = fxprune.plan(coupling, latency=0.6, runtime="eager", batch=3, method="even")
    assert "latency 0.6, predicted 0.6" in plan.method
    assert "in eager at batch 3" in plan.method
    assert cost(plan).macs / cost(coupling).macs == pytest.approx(0.5, rel=0.05)
    assert len(timed) <= 4


def test_the_least_time_is_that_of_the_narrowest_network(coupling, curve):
    timed = curve(lambda m: 0.5 + 0.5 * m)
    with pytest.raises(OptionError, match=r"0.3 of the time in eager is out of reach: the least that can be had is"):
        fxprune.plan(coupling, latency=0.3, runtime="eager")
    assert timed[-1] == min(timed) < 0.01


@pytest.mark.parametrize(("freeze", "complete"), [(["layers.[01].weight"], True), (None, False)])
def test_a_table_that_ends_at_the_narrowest_network_says_so(coupling, curve, freeze, complete):
    curve(lambda m: m)
    table = fxprune.latency_table(coupling, runtime="eager", freeze=freeze)
    assert table.complete == complete
    with pytest.raises(OptionError, match="that can be had" if complete else "in the table of times"):
        fxprune.plan(coupling, latency=0.05, latency_table=table, freeze=freeze)


def test_a_compiler_that_is_missing_is_one_error(monkeypatch):
    from torch._inductor.exc import InductorError, InvalidCxxCompiler

    def fail(*_):
        raise InductorError(InvalidCxxCompiler(), None)

    monkeypatch.setattr(measure, "alternated", fail)
    coupling = fxprune.couple(Small(4).eval(), torch.randn(2, 1, 8, 8))
    with pytest.raises(OptionError, match=r"`runtime` compiled does not work here: No working C\+\+ compiler .* g\+\+"):
        fxprune.latency_table(coupling, 0.5, runtime="compiled")


def test_measuring_names_its_phase_and_steps(coupling, curve, capsys, monkeypatch):
    curve(lambda m: m)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.listening():
        fxprune.latency_table(coupling, runtime="eager")
    first, *steps = (line for line in capsys.readouterr().err.splitlines() if "clusters" not in line)
    assert first.split() == ["time", "the", "network", "and", "narrow", "copies"]
    assert [line.split(",")[0].strip() for line in steps] == [f"narrow copy {n} of 6" for n in range(1, 6)]


def test_without_a_goal_the_whole_range_is_timed(coupling, curve):
    curve(lambda m: 0.2 + 0.8 * m)
    table = fxprune.latency_table(coupling, runtime="eager", round_to=8, freeze=["layers.0.weight"])
    assert len(table.points) == 7
    assert [macs for macs, _ in table.points] == pytest.approx([1.0, *measure.GRID], rel=0.25)
    assert (table.groups, table.round_to) == (("layers.1.weight", "layers.2.weight"), 8)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"runtime": "tensorrt"}, "`runtime` must be one of onnxruntime, eager, compiled, not tensorrt"),
        ({"batch": 0}, "`batch` must be 1 or more, not 0"),
        ({"only": ["nothing"]}, "nothing"),
    ],
)
def test_wrong_options(coupling, options, says):
    with pytest.raises(OptionError, match=says):
        fxprune.latency_table(coupling, 0.5, **options)


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_both_networks_run_in_the_runtime(monkeypatch, runtime):
    coupling, shapes = fxprune.couple(Small(4).eval(), torch.randn(2, 1, 8, 8)), []

    def run(*calls):
        shapes.extend(tuple(out.shape) for call in calls for out in [call()])
        return PairedTimes(10.0, 0.5, 15)

    monkeypatch.setattr(measure, "alternated", lambda *calls: run(*(as_tensor(call) for call in calls)))
    assert time_of(fxprune.plan(coupling, keep=0.5, method="even"), runtime=runtime, batch=3) == (10.0, 0.5)
    assert len(shapes) == 2
    assert {shape[0] for shape in shapes} == {3}


def as_tensor(call):
    def first():
        out = call()
        return out[0] if isinstance(out, tuple) else out

    return first


def test_calls_are_timed_in_alternation():
    order = []
    times = alternated(lambda: order.append("a"), lambda: order.append("b"), seconds=1e-6)
    assert times.first_ms > 0 < times.ratio and times.second_ms == times.first_ms * times.ratio
    assert times.pairs == 15
    assert order.count("a") == order.count("b") >= 15
    assert "ab" in "".join(order).replace("aa", "a")
