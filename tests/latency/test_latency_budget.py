"""A budget of time is met by a table of times; the table is for one network, choice, runtime and batch."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import pytest
from helpers.couplings.tower import tower

import fxprune
from fxprune.costs import cost
from fxprune.errors import OptionError
from fxprune.latencies import LatencyTable, macs_of_one
from fxprune.passes.latency import plan_to
from fxprune.passes.options import Target

POINTS = ((1.0, 1.0), (0.5, 0.75), (0.25, 0.5), (0.1, 0.2))


@pytest.fixture
def coupling():
    _model, coupling = tower(16, 48, 96, 48, 8)
    return coupling


def table_for(coupling, points=POINTS, **changes):
    about = {"network": coupling.digest, "macs": macs_of_one(coupling), "groups": tuple(coupling.groups)}
    where = {"runtime": "eager", "batch": 4, "threads": 1, "machine": "m", "versions": {"torch": "2"}, "wide_ms": 20.0}
    return LatencyTable(**about, round_to=1, **where, points=points, **changes)


@pytest.mark.parametrize(
    ("share", "macs"), [(1.0, 1.0), (0.9, 0.8), (0.76, 0.5), (0.6, 0.35), (0.5, 0.25), (0.35, 0.175), (0.2, 0.1)]
)
def test_widths_have_the_macs_that_take_this_time(coupling, share, macs):
    table = table_for(coupling)
    plan = fxprune.plan(coupling, latency=share, latency_table=table, method="even")
    reached = cost(plan).macs / cost(coupling).macs
    assert reached == pytest.approx(macs, rel=0.01)
    assert plan == fxprune.plan(coupling, macs=macs, method="even")
    predicted = table.time_at(reached)
    assert table.times_of(plan) == (20.0, 20.0 * predicted)
    assert plan.method == f"even, latency {share:g}, predicted {predicted:.4f} in eager at batch 4, macs {reached:.4f}"


@pytest.mark.parametrize(
    ("points", "share", "macs"),
    [
        (((1.0, 1.0), (0.5, 1.1), (0.25, 0.5)), 0.8, 0.375),  # noise does not break the search
        (((1.0, 1.0), (0.5, 0.6), (0.4, 0.7), (0.1, 0.2)), 0.65, 0.5625),  # of several, the widest
    ],
)
def test_times_that_do_not_fall(coupling, points, share, macs):
    assert table_for(coupling, points).macs_for(share) == pytest.approx(macs)


@pytest.mark.parametrize(
    ("complete", "says"),
    [
        (True, r"0.1 of the time in eager is out of reach: the least that can be had is 0.2 \(4 of 20 ms\), at 0.1 of"),
        (False, "the least in the table of times is 0.2"),
    ],
)
def test_a_time_out_of_reach_names_the_least(coupling, complete, says):
    with pytest.raises(OptionError, match=says):
        fxprune.plan(coupling, latency=0.1, latency_table=table_for(coupling, complete=complete))


STEPS = ((1.0, 1.0), (0.5, 0.742), (0.25, 0.515))


@pytest.mark.parametrize(
    ("share", "first", "says"),
    [
        (0.6, 16, "latency 0.6, nearest reachable 0.5150 in eager"),  # MACs of 0.34 are not to be had
        (0.515, 16, "latency 0.515, predicted 0.5150 in eager"),
        (0.7, 32, "latency 0.7, nearest reachable 0.7420 in eager"),
        (0.95, None, r"0.95 of the time in eager is out of reach: the nearest that groups can come to is 1\."),
        (0.98, None, r"0.98 of the time in eager is out of reach: the nearest that groups can come to is 1\."),
        (1.0, 64, "latency 1, predicted 1.0000 in eager"),
    ],
)
def test_the_nearest_widths_are_judged_by_their_time(share, first, says):
    _model, coupling = tower(16, 64, 8)
    how = {"only": ["layers.0.*"], "round_to": 16, "method": "even"}
    table = replace(table_for(coupling, STEPS), groups=("layers.0.weight",), round_to=16)
    if first is None:
        with pytest.raises(OptionError, match=says):
            fxprune.plan(coupling, latency=share, latency_table=table, **how)
        return
    plan = fxprune.plan(coupling, latency=share, latency_table=table, **how)
    assert plan.widths["layers.0.weight"] == (64, first)
    assert says in plan.method


WRONG = {
    "another network": ({"network": "x"}, {}, "for another network"),
    "another image": ({"macs": 1}, {}, "or for other inputs"),
    "another choice": ({}, {"only": ["layers.1.*"]}, "has 3 groups narrowed, and 1 are to become narrow"),
    "other multiples": ({"round_to": 8}, {}, r"multiples of 8 \(`round_to`\), not 1"),
    "another runtime": ({}, {"runtime": "compiled"}, "of eager at batch 4, not of `runtime` compiled"),
    "another batch": ({}, {"batch": 1}, "of eager at batch 4, not 1"),
    "two budgets": ({}, {"macs": 0.5}, "`macs` and `latency` exclude each other"),
    "no share": ({}, {"latency": 1.5}, "`latency` is a share above 0 and up to 1, not 1.5"),
    "no budget": ({}, {"latency": None}, "`latency_table` is for a budget of time: give `latency`"),
}


@pytest.mark.parametrize(("changes", "options", "says"), WRONG.values(), ids=WRONG)
def test_what_does_not_go_together(coupling, changes, options, says):
    table = replace(table_for(coupling), **changes)
    with pytest.raises(OptionError, match=says):
        fxprune.plan(coupling, **{"latency": 0.5, "latency_table": table, **options})


def test_a_target_is_never_measured_a_second_time(coupling):
    with pytest.raises(OptionError, match="goes by measured times: give `latency_table`"):
        plan_to(Target(latency=0.5), coupling)
    table = table_for(coupling)
    assert plan_to(Target(latency=0.5), coupling, times=table) == fxprune.plan(
        coupling, latency=0.5, latency_table=lambda *_, **__: table
    )


def test_a_table_is_read_as_it_was_written(coupling, tmp_path):
    table = table_for(coupling)
    table.save(tmp_path / "t.json")
    assert LatencyTable.read(tmp_path / "t.json") == table
    by_file = fxprune.plan(coupling, latency=0.5, latency_table=tmp_path / "t.json", method="even")
    assert by_file == fxprune.plan(coupling, latency=0.5, latency_table=table, method="even")
    assert "0.250  0.500  10" in str(table)
    assert "at a batch of 4, 1 thread, m" in str(table)


DAMAGED = {
    "a plan": ({"format": "fxprune-plan"}, "is not an fxprune latency"),
    "later": ({"version": 2}, "has version 2; this fxprune reads version 1. Update"),
    "text": ({"batch": "4"}, "`batch` is '4'; it must be int"),
    "no points": ({"points": []}, "`points` are no shares"),
    "no wide network": ({"points": [[0.5, 0.5]]}, "`points` are no shares"),
    "no numbers": ({"points": [[1, 1], ["a", 1]]}, "`points` are no shares"),
    "a contradiction": ({"points": [[1, 1], [0.5, 0.6], [0.5, 0.7]]}, "two times for the same MACs. Measure it again"),
    "a remedy": ({"threads": None}, "`threads` is None; it must be int. Measure it again with `fxprune latency`"),
    "a name too many": ({"secret": 1}, "no field 'secret'"),
}


@pytest.mark.parametrize(("changes", "says"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_table_is_one_error(coupling, tmp_path, changes, says):
    table_for(coupling).save(tmp_path / "t.json")
    value = json.loads((tmp_path / "t.json").read_text())
    (tmp_path / "t.json").write_text(json.dumps(value | changes))
    with pytest.raises(OptionError, match=says):
        LatencyTable.read(tmp_path / "t.json")


def test_the_share_of_the_time_is_any_real_number(coupling):
    plans = [fxprune.plan(coupling, latency=each, latency_table=table_for(coupling)) for each in (Fraction(1, 2), 0.5)]
    assert plans[0] == plans[1]
