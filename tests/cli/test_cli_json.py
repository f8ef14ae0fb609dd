"""With --json, stdout holds one JSON document with documented keys and nothing else, for every command."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers.command_line import SMALL, Small, enter, run
from helpers.timings import time_nothing

import fxprune
from fxprune.cli.commands import inspect
from fxprune.cli.main import COMMANDS
from fxprune.errors import DataError, ModelError, PlanError
from fxprune.models_zoo import registry

RESULT = (
    "output stages deviation median_deviation snap_change snap_changed settled max_rel_error onnx_rel_error opset "
    "widths seconds options versions metric higher_is_better weights pairs page"
)
NETWORK = "small --in-chans 1 --image-size 8"
KEYS = {
    "compress": (f"{SMALL} --output again", RESULT),
    "fold": (
        "fold small --checkpoint {out}/wide.safetensors --data digits --image-size 8 --output f",
        RESULT + " folded",
    ),
    "inspect": (
        f"inspect {NETWORK}",
        "model params macs prunable frozen_params groups frozen half unchecked batch can_be_pruned written",
    ),
    "plan": (f"plan {NETWORK}", "model method seed groups before after multiple odd latency written"),
    "latency": (
        f"latency {NETWORK} --runtime eager",
        "network macs groups round_to runtime batch threads machine versions wide_ms points complete written",
    ),
    "prove": (f"prove {NETWORK}", "model passed relative_errors change groups culprits problem"),
    "verify": ("verify {out}", "folder passed findings"),
    "export": ("export {out} -o again.onnx", "format path max_rel_error batch"),
    "push": ("push anywhere me/net --dry-run", "repo pushed path url"),
    "bench": ("bench {out} --batch 1", "folder timings threads left_out"),
    "report": ("report {out}", RESULT),
    "checks": ("checks", "fxprune python platform complete packages extras devices cpu cache"),
}
DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of results."""
    out = tmp_path_factory.mktemp("json") / "out"
    more = {"epochs": 0, "csgd_epochs": 1, "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "OWN", {"small": Small})
        time_nothing(patch)
        fxprune.compress("small", "digits", image_size=8, output=out, **more)
    return {"out": out}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, untimed):
    return enter(tmp_path, monkeypatch)


def test_every_command_is_here():
    assert set(KEYS) == set(COMMANDS)


@pytest.mark.parametrize("command", [name for name in KEYS if name != "push"])
def test_stdout_is_one_document_with_stable_keys(capsys, finished, command, monkeypatch):
    monkeypatch.setattr("fxprune.passes.latency.measure._WideTimer.time", lambda *_: (20.0, 0.5))
    line, keys = KEYS[command]
    code, out, err = run(capsys, line.format(**finished) + " --json")
    value = json.loads(out)
    assert (code, value["command"], value["exit_code"]) == (0, command, 0), err
    assert set(value) == {"command", "exit_code", *keys.split()} and "Next: " not in out


def test_verify_fails_whichever_file_is_damaged_or_missing(capsys, finished, place):
    for name in sorted(each.name for each in finished["out"].iterdir() if each.is_file()):
        shutil.copytree(finished["out"], place / "bad", dirs_exist_ok=True)
        file = place / "bad" / name
        file.write_bytes(file.read_bytes()[:-9])
        assert run(capsys, "verify bad")[0] == 1, name
        file.unlink()
        assert run(capsys, "verify bad --json")[0] == 1, name
    assert run(capsys, "verify nowhere")[0] == 2


@pytest.mark.parametrize(("kind", "code"), [(PlanError, 1), (ModelError, 1), (DataError, 2)])
def test_what_a_folder_holds_fails_and_data_that_are_away_are_input(capsys, monkeypatch, place, kind, code):
    def refused(folder):
        raise kind("no")

    monkeypatch.setattr("fxprune.passes.report.verify_folder", refused)
    (place / "bad").mkdir()
    assert run(capsys, "verify bad")[0] == code


def test_push_tells_what_it_wrote(capsys, monkeypatch, place):
    monkeypatch.setattr("fxprune.passes.hub.write_hub_folder", lambda folder, repo, output: output)
    code, out, _ = run(capsys, "push anywhere me/net --dry-run --json")
    wanted = {"repo": "me/net", "pushed": False, "path": "anywhere/hub", "url": None}
    assert (code, json.loads(out)) == (0, {"command": "push", "exit_code": 0, **wanted})
    assert set(wanted) == set(KEYS["push"][1].split())


def test_an_error_is_a_document_too(capsys):
    code, out, err = run(capsys, "inspect resnt18 --json")
    value = json.loads(out)
    assert (code, value["exit_code"], value["error"]["kind"]) == (2, 2, "ModelError")
    assert value["error"]["message"] in err


@pytest.mark.parametrize(
    ("line", "command", "says"),
    [
        ("inspect --json", "inspect", "required: MODEL."),
        ("inspect resnet18 --bad --json", "inspect", "there is no option `--bad`."),
        ("inspect resnet18 --seed x --json", "inspect", "`--seed`"),
        ("compress --keep half --json", "compress", "--keep"),
        ("shrink --json", None, "no command `shrink`"),
    ],
)
def test_an_error_of_the_command_line_is_a_document_too(capsys, line, command, says):
    code, out, err = run(capsys, line)
    value = json.loads(out)
    assert (code, value["command"], value["exit_code"], value["error"]["kind"]) == (2, command, 2, "OptionError")
    assert says in value["error"]["message"] and value["error"]["message"] in err


def test_what_a_command_prints_by_the_way_goes_to_stderr(capsys, monkeypatch):
    monkeypatch.setattr(inspect, "network_from", lambda _: print("by the way") or 1 / 0)
    _, out, err = run(capsys, f"inspect {NETWORK} --json")
    assert "by the way" in err and json.loads(out)["error"]["kind"] == "ZeroDivisionError"


def test_an_interruption_is_a_document_too(capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect, "network_from", interrupt)
    code, out, err = run(capsys, f"inspect {NETWORK} --json")
    said = {"kind": "KeyboardInterrupt", "message": "interrupted; nothing was written."}
    assert (code, json.loads(out)) == (130, {"command": "inspect", "exit_code": 130, "error": said}), err


def test_the_keys_are_documented():
    text = DOCS.read_text()
    for name, (_, keys) in KEYS.items():
        row = re.search(rf"^\| `{name}`.*$", text.partition("## JSON")[2], re.M)
        assert row, name
        documented = set(re.findall(r"`(\w+)`", row.group()))
        missing = set(keys.split()) - documented - (set(RESULT.split()) if "as `compress`" in row.group() else set())
        assert not missing, (name, missing)
