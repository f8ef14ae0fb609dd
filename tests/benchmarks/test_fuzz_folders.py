"""Some of the attacks of `make fuzz`, and that a reader without its checks would be found."""

from __future__ import annotations

import collections
import os
import signal

import pytest

from benchmarks.fuzz import folders as fuzz_folders
from fxprune.errors import CheckpointError
from fxprune.models_zoo import registry
from fxprune.passes.store.layout import METRICS
from fxprune.passes.store.manifest import Manifest

pytestmark = pytest.mark.xdist_group("fuzz")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "OWN", registry.OWN)  # puts it back
        made = fuzz_folders.make_folders(tmp_path_factory.mktemp("fuzz"))
        yield made, fuzz_folders.numbers(made[0])


def attacked(folders, numbers):
    return [fuzz_folders.attack(number, 0, *folders) for number in numbers]


@pytest.mark.parametrize(("signed", "count"), [(False, 40), (True, 8)])
def test_nothing_gets_in_and_nothing_brings_the_reader_down(folders, signed, count):
    lines = attacked(folders, range(int(signed), 2 * count, 2))
    bad = [line for line in lines if line["outcome"] in ("other", "raw")]
    assert not bad
    outcomes = collections.Counter(line["outcome"] for line in lines)
    assert outcomes["refused"] + outcomes["found"] > count / 3


def test_a_manifest_that_is_not_held_to_its_word_is_found(folders, monkeypatch):
    def nudged(folder, *_, signed):
        text = (folder / METRICS).read_text()
        (folder / METRICS).write_text(text.replace('"loss": ', '"loss": 1'))
        return "nudged", METRICS, "loss"

    monkeypatch.setattr(fuzz_folders, "damaged", nudged)
    assert attacked(folders, [0])[0]["outcome"] == "refused"
    monkeypatch.setattr(Manifest, "check", lambda *_: None)
    assert attacked(folders, [0])[0]["outcome"] == "other"


def test_what_was_done_is_not_done_again_and_a_process_that_dies_is_told(folders, tmp_path, monkeypatch):
    made, whole = folders
    monkeypatch.setattr(fuzz_folders, "make_folders", lambda place: made)
    monkeypatch.setattr(fuzz_folders, "numbers", lambda folder, before=None: whole)

    def attack(number, seed, *_):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"number": number, "seed": seed, "signed": bool(number % 2), "outcome": "same", "says": ""}

    monkeypatch.setattr(fuzz_folders, "attack", attack)
    lines = fuzz_folders.run(4, 0, tmp_path / "lines.jsonl")
    assert [line["outcome"] for line in lines] == ["same", "same", "raw", "same"]
    assert "the process ended with -9" in lines[2]["says"]
    assert fuzz_folders.run(4, 0, tmp_path / "lines.jsonl") == lines
    assert "| **all** | 0 | 0 | 1 | 0 | 0 | 1 |" in fuzz_folders.page(lines, 0)


def test_outcomes(folders):
    _, whole = folders
    error, other = CheckpointError("no"), {**whole, "report": "other"}
    judge = fuzz_folders.judge
    assert judge(whole, whole, signed=False)[0] == "same"
    assert judge(dict.fromkeys(whole, error), whole, signed=False)[0] == "refused"
    assert judge({**whole, "verify": "a\nb: FAILS"}, whole, signed=True) == ("found", "b: FAILS")
    assert judge(other, whole, signed=True)[0] == "recorded"
    assert judge(other, whole, signed=False)[0] == "other"
    assert judge({**other, "verify": error}, whole, signed=False)[0] == "other"
    assert judge({**whole, "load": ("x",)}, whole, signed=True)[0] == "other"
