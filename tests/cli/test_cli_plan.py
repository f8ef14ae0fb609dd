"""`fxprune plan` says what would go, for a target's widths, and its file comes back edited."""

from __future__ import annotations

import json
import re

import pytest
from helpers.command_line import SMALL, enter, run

import fxprune
from fxprune.passes.job.compression import Compression
from fxprune.passes.options.target import MULTIPLES

PLAN = "plan small --data digits --image-size 8"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
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
    assert "fxprune compress --model small --data digits --plan plan.json" in out
    lines = (place / "plan.json").read_text().splitlines()
    assert '  "first.weight": 4,' in lines  # in its widths


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
        assert {after[name] for name in value["odd"]} == ({8} if multiple == 32 else set())
    out = run(capsys, "plan resnet20 --image-size 16 --keep 0.5 --target htp")[1]
    assert "Warning: the layers of" in out and "no multiples of 32" in " ".join(out.split())


@pytest.mark.filterwarnings("default::fxprune.WidthWarning")
def test_a_job_warns_in_a_line_where_a_plan_misses_its_target(capsys, place, monkeypatch):
    def stop(*_):
        raise fxprune.OptionError("here, before it trains.")

    monkeypatch.setattr(Compression, "recorded", stop)
    _, _, err = run(capsys, f"{SMALL} --keep 0.5 --target htp --output out --quiet")
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
        (f"{PLAN} --target htp --round-to 4", ["`round_to` and `target` exclude each other"]),
        (f"{PLAN} --target htp --widths first.weight=4", ["`widths` and `target` exclude each other"]),
        (f"{PLAN} --target tpu", ["`target` must be", "tensorrt-int8"]),
    ],
)
def test_what_cannot_be_had_is_one_error(capsys, line, says):
    code, out, err = run(capsys, line)
    *phases, error = err.splitlines()
    assert (code, out, {line.split()[0] for line in phases} <= {"read", "build", "couple", "plan"}) == (2, "", True)
    for word in says:
        assert word in error
