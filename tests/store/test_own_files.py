"""Beside its checkpoints a run meets files of the user's: they stay, whatever becomes of the run."""

from __future__ import annotations

import json
import os

import pytest
from helpers.jobs.folders import write, written
from helpers.jobs.inputs import Tiny, tiny_data

import fxprune
import fxprune.passes.job.compression
from fxprune.errors import CheckpointError, DivergedError, OptionError
from fxprune.passes.job import measure as compress_measure
from fxprune.passes.store.layout import EVENTS, LIST
from fxprune.passes.store.own_files import OwnFiles
from fxprune.passes.train.loop import Training

MINE = {"checkpoints/mine.txt": "1", "checkpoints.before/mine.txt": "2", f"{EVENTS}/mine.txt": "3", "mine.txt": "4"}
FILES = ("train.pt", "train.previous.pt", "metrics.jsonl", f"{EVENTS}/events.out.tfevents.1")


def owning(folder, files=FILES):
    own = OwnFiles(folder)
    own.claim(*files)
    write(folder, dict.fromkeys(files, folder.name))
    return own


def test_only_what_was_claimed_goes(tmp_path):
    write(tmp_path, {"mine": "", f"{EVENTS}/mine": ""})
    own = owning(tmp_path)
    write(tmp_path, {".train.pt.abc_0123.part": "", ".mine.abc.part": "", ".train.pt.mine.part": ""})
    assert own.present(".pt") == [tmp_path / "train.pt", tmp_path / "train.previous.pt"]
    own.clear()
    assert written(tmp_path) == [".mine.abc.part", ".train.pt.mine.part", "mine", f"{EVENTS}/mine"]
    own.clear()


def test_a_folder_of_ours_alone_goes_itself(tmp_path):
    owning(tmp_path / "checkpoints").clear()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "checkpoints").symlink_to("elsewhere")
    with pytest.raises(OptionError, match=r"checkpoints is no file of a run"):
        OwnFiles(tmp_path / "checkpoints").claim("train.pt")
    assert written(tmp_path / "elsewhere") == []


def test_records_in_a_folder_that_is_a_link_stay(tmp_path):
    own = owning(tmp_path / "a")
    (tmp_path / "a" / EVENTS).rename(tmp_path / "elsewhere")
    (tmp_path / "a" / EVENTS).symlink_to("../elsewhere")
    with pytest.raises(OptionError, match=rf"{EVENTS} is no file of a run"):
        own.clear()
    assert written(tmp_path / "elsewhere") == ["events.out.tfevents.1"]


def test_files_move_without_those_of_the_user(tmp_path):
    write(tmp_path, {"a/mine": "", "b/mine": "", "a/notes": ""})
    own, place = owning(tmp_path / "a"), owning(tmp_path / "b", [*FILES, "csgd.pt"])
    own.move(place)
    assert written(tmp_path) == [
        "a/mine",
        "a/notes",
        *sorted(["b/mine", f"b/{LIST}", *(f"b/{name}" for name in FILES)]),
    ]
    assert (tmp_path / "b" / "train.pt").read_text() == "a"


@pytest.mark.parametrize("what", ["move", "clear"])
def test_killed_at_any_moment_it_is_ended_by_the_next(tmp_path, monkeypatch, what):
    done, count = False, 0
    while not done:
        count += 1
        root = tmp_path / str(count)
        write(root, {"a/mine": "", "b/mine": ""})
        own, place = owning(root / "a"), owning(root / "b", ["csgd.pt"])
        calls = []

        def killed(call, calls=calls, count=count):
            def dying(*arguments, **options):
                calls.append(1)
                if len(calls) == count:
                    raise KeyboardInterrupt
                return call(*arguments, **options)

            return dying

        with monkeypatch.context() as patch:
            for name in ("replace", "unlink"):
                patch.setattr(os, name, killed(getattr(os, name)))
            try:
                own.move(place) if what == "move" else own.clear()
                done = True
            except KeyboardInterrupt:
                pass
        names = own.names()
        own.mend(place)
        place.mend(own)
        if names:  # nothing had begun
            assert {path.name for path in own.present()} == {name.rpartition("/")[2] for name in FILES}
        else:
            assert written(root / "a") == ["mine"]
            assert len(place.present()) == (len(FILES) if what == "move" else 1)
        assert (root / "b" / "mine").exists()
    assert count > 5


@pytest.mark.parametrize("name", ["train.pt", "metrics.jsonl", "recipe.yaml"])
def test_a_file_of_the_user_in_the_place_of_one_of_ours_is_refused_at_the_start(tmp_path, monkeypatch, name):
    write(tmp_path, {f"checkpoints/{name}": "mine"})
    monkeypatch.setattr(fxprune.passes.job.compression, "prepare", lambda *_: pytest.fail("worked"))
    with pytest.raises(OptionError, match=rf"checkpoints/{name} is no file of a run"):
        run(tmp_path)
    assert written(tmp_path) == [f"checkpoints/{name}"]


LISTED = '{"format": "fxprune-files", "version": 1, "state": "kept", "files": {"%s": null}}'


NEVER_OURS = [LISTED % "../mine", LISTED % f"{EVENTS}/..", LISTED % f"{EVENTS}/mine"]


@pytest.mark.parametrize("content", ["", "[]", "{}", *NEVER_OURS])
def test_a_damaged_list_is_refused(tmp_path, content):
    write(tmp_path, {f"a/{LIST}": content, "mine": "", "a/train.pt": ""})
    with pytest.raises(CheckpointError, match=LIST):
        OwnFiles(tmp_path / "a").clear()
    assert len(written(tmp_path)) == 3


def run(output, **options):
    chosen = {"epochs": 1, "csgd_epochs": 1, "deviation": 1e-3, "tensorboard": True, "progress": False}
    return fxprune.compress(Tiny(), tiny_data(), output=output, **(chosen | options))


def break_off(*_):
    raise KeyboardInterrupt


def mine(output):
    """The files of the user's as they are now."""
    return {name: (output / name).read_text() for name in MINE if (output / name).exists()}


def test_files_of_the_user_stay_whatever_becomes_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(compress_measure, "milliseconds", lambda *_: 1.0)
    write(tmp_path, MINE)
    with pytest.raises(OptionError):  # refused before it trains
        run(tmp_path, deviation=1e-300)
    assert written(tmp_path) == sorted(MINE)
    with pytest.raises(DivergedError):
        run(tmp_path, lr=1e30)
    assert mine(tmp_path) == MINE
    with monkeypatch.context() as patch:
        patch.setattr(fxprune.passes.job.compression, "trim", break_off)
        for _ in range(2):  # the second moves the checkpoints of the first beside
            with pytest.raises(fxprune.errors.StoppedError):
                run(tmp_path)
    assert mine(tmp_path) == MINE
    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", break_off)
        with pytest.raises(fxprune.errors.StoppedError, match="nothing was kept"):
            run(tmp_path)
    assert mine(tmp_path) == MINE
    run(tmp_path, resume="auto")
    assert mine(tmp_path) == MINE
    assert written(tmp_path / "checkpoints") == written(tmp_path / "checkpoints.before") == ["mine.txt"]
    listed = json.loads((tmp_path / "manifest.json").read_text())["files"]
    there = {name for name in written(tmp_path) if name not in MINE}
    assert there == {*listed, "manifest.json"} and any(name.startswith(f"{EVENTS}/events") for name in listed)
    run(tmp_path, tensorboard=False)
    assert mine(tmp_path) == MINE and written(tmp_path / EVENTS) == ["mine.txt"]


def test_records_that_are_not_those_that_were_written_are_not_gone_on_with(tmp_path):
    own = owning(tmp_path)
    own.note("metrics.jsonl")
    path = tmp_path / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text + "more")
    own.check_noted("metrics.jsonl")
    for damaged in (text[:-1], "x" + text[1:], ""):
        path.write_text(damaged)
        with pytest.raises(CheckpointError, match=r"metrics.jsonl is damaged: its first \d+ bytes"):
            own.check_noted("metrics.jsonl")
    path.unlink()
    own.check_noted("metrics.jsonl")
