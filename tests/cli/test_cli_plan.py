"""`fxprune plan` says what would go, for a target's widths, and its file comes back edited."""

from __future__ import annotations

import json
import re

import pytest
import torch
from helpers.command_line import SMALL, Small, enter, run

import fxprune
from fxprune.costs import cost
from fxprune.latencies import LatencyTable
from fxprune.passes.job.compression import Compression
from fxprune.passes.options.target import MULTIPLES
from fxprune.passes.store import read_manifest, save_weights

PLAN = "plan small --data digits --image-size 8"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, untimed):
    monkeypatch.setenv("COLUMNS", "80")
    return enter(tmp_path, monkeypatch)


def edit(path, **widths):
    value = json.loads(path.read_text())
    value["widths"] |= {name.replace("_", "."): width for name, width in widths.items()}
    path.write_text(json.dumps(value))


def test_a_plan_tells_what_would_go(capsys, place):
    code, out, err = run(capsys, f"{PLAN} --keep 0.5 -o plan.json")
    assert (code, max(map(len, out.splitlines())) <= 80) == (0, True), err
    said = " ".join(out.split())
    assert said.startswith("small: 2 of 2 groups would become narrower, by 8 of 16 channels. 770 -> 246 parameters")
    assert re.search(r"^first.weight +8 +4 +672 -> 192 +\d", out, re.M)
    assert "fxprune compress --model small --data digits --image-size 8 --plan plan.json" in out
    assert "--round-to 8" in out  # 4 is no multiple
    lines = (place / "plan.json").read_text().splitlines()
    assert '  "first.weight": 4,' in lines  # in its widths


def test_a_plan_of_good_widths_asks_for_no_multiple(capsys):
    assert "--round-to" not in run(capsys, f"{PLAN} --widths first.weight=8")[1]
    assert "--round-to" not in run(capsys, f"{PLAN} --keep 0.5 --round-to 4")[1]


def test_the_next_step_takes_the_plan(capsys, place):
    network = "nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))"
    (place / "rows_of_a_user.py").write_text(f"from torch import nn, zeros\nnet = lambda: ({network}, zeros(2, 4))\n")
    assert "`fxprune.load_plan` in Python" in run(capsys, "plan rows_of_a_user:net -o rows.json")[1]
    out = run(capsys, "plan small --in-chans 1 --image-size 8 --keep 0.5 -o any.json")[1]
    assert "--data DATA --image-size 8 --plan any.json\nFor data with other classes" in out
    code, _, err = run(capsys, f"{SMALL} --plan any.json")
    assert (code, "`fxprune plan MODEL --data NAME`" in err) == (2, True)
    out = run(capsys, "inspect small --in-chans 1 --image-size 8 --group second")[1]
    assert out.endswith("\n\nNext: fxprune plan small --image-size 8 --in-chans 1 --widths second.weight=4\n")


def test_an_edited_plan_is_used(capsys, place):
    assert run(capsys, f"{PLAN} --keep 0.5 -o plan.json")[0] == 0
    before = json.loads((place / "plan.json").read_text())["clusters"]
    edit(place / "plan.json", first_weight=6)
    code, _, err = run(capsys, f"{SMALL} --plan plan.json --output out --quiet")
    assert code == 0, err
    stored = json.loads((place / "out" / "plan.json").read_text())
    assert stored["clusters"]["second.weight"] == before["second.weight"]  # what was not edited stays
    assert len(set(stored["clusters"]["first.weight"])) == 6


WRONG = {
    "too many": ({"first_weight": 9}, ["`first.weight` can have 1 to 8 channels, not 9"]),
    "none": ({"first_weight": 0}, ["plan.json", "`first.weight`", "number of channels"]),
    "a text": ({"first_weight": "half"}, ["plan.json", "`first.weight`", "'half'"]),
    "another group": ({"third_weight": 4}, ["plan.json", "no group `third.weight`", "`first.weight`"]),
}


@pytest.mark.parametrize(("widths", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_edit_is_one_error(capsys, place, widths, says):
    assert run(capsys, f"{PLAN} --keep 0.5 -o plan.json")[0] == 0
    edit(place / "plan.json", **widths)
    code, out, err = run(capsys, f"{SMALL} --plan plan.json --output out --quiet")
    assert (code, out, err.count("\n")) == (2, "", 1)
    for word in says:
        assert word in err


def test_a_target_is_a_multiple_and_warns_where_it_is_missed(capsys):
    line = "plan resnet20 --image-size 16 --keep 0.5 --json --target"
    for target, multiple in MULTIPLES.items():
        value = json.loads(run(capsys, f"{line} {target}")[1])
        after = {group["name"]: group["after"] for group in value["groups"]}
        assert value["odd"] == {name: width for name, width in after.items() if width % multiple}
        assert value["multiple"] == multiple
        assert {after[name] for name in value["odd"]} == ({16} if multiple == 32 else set())
    out = run(capsys, "plan resnet20 --image-size 16 --keep 0.5 --target htp")[1]
    assert "Warning: the layers of" in out and "no multiples of 32" in " ".join(out.split())


@pytest.fixture
def half_overhead(monkeypatch):
    """Let half of the time be overhead, and half go with the MACs."""

    def time(_stopwatch, plan):
        return 20.0, 0.5 + 0.5 * cost(plan).macs / cost(plan.coupling).macs

    monkeypatch.setattr("fxprune.passes.latency.measure._WideTimer.time", time)


def test_a_plan_for_a_share_of_the_time_says_milliseconds(capsys, half_overhead):
    line = f"{PLAN} --latency 0.7 --runtime eager --batch 4"
    found = json.loads(run(capsys, f"{line} --json")[1])
    assert found["latency"] == {
        "runtime": "eager",
        "batch": 4,
        "threads": torch.get_num_threads(),
        "before_ms": 20.0,
        "after_ms": pytest.approx(14.0, rel=0.05),
    }
    said = " ".join(run(capsys, line)[1].split())
    assert re.search(r"20 -> 1[34](\.\d)? ms \(x 0\.\d+\) predicted in eager, at a batch of 4", said)
    assert json.loads(run(capsys, f"{PLAN} --json")[1])["latency"] is None


def test_a_table_is_carried_to_another_machine(capsys, half_overhead, monkeypatch):
    code, out, err = run(capsys, "latency small --in-chans 1 --image-size 8 --num-classes 10 --batch 2 -o t.json")
    assert code == 0, err
    flags = "--image-size 8 --num-classes 10 --in-chans 1 --batch 2 --latency-table t.json"
    assert f"Next: fxprune plan small --latency 0.5 {flags}" in out
    monkeypatch.setattr("fxprune.passes.latency.measure._WideTimer.time", None)  # nothing is timed any more
    first, second = (run(capsys, f"{PLAN} --latency 0.7 --latency-table t.json --json")[1] for _ in range(2))
    assert first == second
    assert json.loads(first)["latency"]["batch"] == 2
    for line, says in {
        f"{PLAN} --latency 0.4 --latency-table t.json": "the least in the table of times is",
        f"{PLAN} --latency 0.7 --batch 1 --latency-table t.json": "of onnxruntime at batch 2, not 1",
        f"{PLAN} --latency 0.7 --latency-table none.json": "cannot read the table of times none.json",
        "plan resnet20 --latency 0.7 --latency-table t.json": "the table of times is for another network",
    }.items():
        code, out, err = run(capsys, line)
        *phases, error = err.splitlines()
        assert (code, out) == (2, ""), err
        assert {line.split()[0] for line in phases} <= {"read", "build", "couple", "plan"}  # and never `time`
        assert says in error


@pytest.mark.parametrize("line", [f"{SMALL} --quiet --output out", "fold small --checkpoint out/wide.safetensors"])
def test_a_job_has_a_budget_of_time(capsys, place, half_overhead, line):
    if line.startswith("fold"):
        assert run(capsys, f"{SMALL} --quiet --output out")[0] == 0
        line += " --data digits --image-size 8 --output folded --quiet"
    code, _, err = run(capsys, f"{line} --latency 0.7 --runtime eager")
    assert code == 0, err
    folder = place / ("folded" if "fold" in line else "out")
    recipe = (folder / "recipe.yaml").read_text()
    assert "latency: 0.7" in recipe
    assert "runtime: eager" in recipe
    assert LatencyTable.read(folder / "latency.json").runtime == "eager"
    assert "latency.json" in read_manifest(folder).files


def test_a_job_that_resumes_goes_by_the_times_it_measured(capsys, place, half_overhead, monkeypatch):
    def stop(*_):
        raise fxprune.OptionError("here, before the trim.")

    line = f"{SMALL} --quiet --output out --latency 0.7 --runtime eager --resume auto"
    with monkeypatch.context() as stopped:
        stopped.setattr(Compression, "conclude", stop)
        assert run(capsys, line)[0] == 2
    kept = (place / "out" / "checkpoints" / "latency.json").read_text()
    monkeypatch.setattr("fxprune.passes.latency.measure._WideTimer.time", None)  # nothing is timed any more
    code, _, err = run(capsys, line)
    assert code == 0, err
    assert (place / "out" / "latency.json").read_text() == kept
    again = f"{SMALL} --quiet --output again --latency 0.7 --latency-table out/latency.json"
    code, _, err = run(capsys, again)
    assert code == 0, err
    plans = [json.loads((place / name / "plan.json").read_text())["clusters"] for name in ("out", "again")]
    first, second = ({name: len(set(labels)) for name, labels in clusters.items()} for clusters in plans)
    assert first == second
    assert "latency_table" in read_manifest(place / "again").reads


@pytest.mark.filterwarnings("default::fxprune.WidthWarning")
def test_a_job_warns_in_a_line_where_a_plan_misses_its_target(capsys, place, monkeypatch):
    def stop(*_):
        raise fxprune.OptionError("here, before it trains.")

    monkeypatch.setattr(Compression, "recorded", stop)
    line = SMALL.replace("small", "resnet20")
    _, _, err = run(capsys, f"{line} --keep 0.5 --target htp --output out --quiet")
    warned, stopped = err.splitlines()
    assert warned.startswith("fxprune: warning: the layers of") and "no multiples of 32" in warned
    assert stopped == "fxprune: here, before it trains."


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{PLAN} --macs 0.001", ["`macs` is out of reach", "the nearest that groups can come to is"]),
        (
            "plan resnet20 --image-size 16 --params 0.05 --target htp",
            ["`params` is out of reach", "the nearest that groups can come to is"],
        ),
        (f"{PLAN} --target htp", ["`keep` 0.5 is out of reach", "can have in blocks of 32, the nearest is 1"]),
        (f"{PLAN} --target htp --round-to 4", ["`round_to` and `target` exclude each other"]),
        (f"{PLAN} --target htp --widths first.weight=4", ["`widths` and `target` exclude each other"]),
        (f"{PLAN} --latency 0.5 --macs 0.5", ["`macs` and `latency` exclude each other"]),
        (f"{PLAN} --latency 0.5 --runtime tensorrt", ["`runtime` must be one of onnxruntime, eager, compiled"]),
        (f"{PLAN} --batch 8", ["`batch` is for a budget of time: give `latency` (a training has a `batch_size`)"]),
        (f"{PLAN} --target tpu", ["`target` must be", "tensorrt-int8"]),
    ],
)
def test_what_cannot_be_had_is_one_error(capsys, line, says):
    code, out, err = run(capsys, line)
    *phases, error = err.splitlines()
    assert (code, out, {line.split()[0] for line in phases} <= {"read", "build", "couple", "plan"}) == (2, "", True)
    for word in says:
        assert word in error


def test_a_file_is_not_written_over_one_that_is_read(capsys, place):
    plan = "plan small --num-classes 10 --in-chans 1 --image-size 8 --keep 0.5"
    save_weights(Small(10), "weights.safetensors")
    before = (place / "weights.safetensors").read_bytes()
    code, _, err = run(capsys, f"{plan} --checkpoint weights.safetensors -o weights.safetensors")
    assert (code, err.splitlines()[-1]) == (
        2,
        "fxprune: weights.safetensors is also read, and would be replaced: choose another file.",
    )
    assert (place / "weights.safetensors").read_bytes() == before
    code, _, err = run(capsys, "inspect small --num-classes 10 --in-chans 1 --image-size 8 --dot graph --html ./graph")
    assert (code, "is to be written by --html and by --dot" in err, (place / "graph").exists()) == (2, True, False)
