"""One run at a time writes into a folder; one that was killed is no obstacle."""

from __future__ import annotations

import errno
import os
import signal
import time

import pytest
from helpers.jobs.folders import hold, refused, run, run_with, write, written
from helpers.processes.fork_server import start

from fxprune.errors import OptionError
from fxprune.passes.store import lock
from fxprune.passes.store.folder import folder_aside
from fxprune.passes.store.layout import LOCK, MANIFEST, ROWS


@pytest.fixture
def holder(tmp_path, tmp_path_factory):
    """Another process that writes into `out`."""
    aside = tmp_path_factory.mktemp("holder")
    process = start(hold, aside / "log", tmp_path / "out", aside / "told")
    while not (aside / "told").exists():
        assert process.is_alive(), (aside / "log").read_text()
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def test_the_second_run_is_refused_and_one_that_was_killed_is_no_obstacle(tmp_path, holder):
    out = tmp_path / "out"
    with pytest.raises(OptionError, match=rf"another run writes into .*out: process {holder.pid} on \S+\. Wait"):
        refused(out)
    os.kill(holder.pid, signal.SIGKILL)
    while lock._started(holder.pid) is not None:
        time.sleep(0.01)
    run(out, {ROWS: "1"}, [ROWS])  # not even waited for: it is a zombie
    assert written(tmp_path) == [f"out/{MANIFEST}", f"out/{ROWS}"]
    assert sorted(path.name for path in out.iterdir()) == [MANIFEST, ROWS]


def test_the_same_process_number_of_another_time_is_another_process(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(lock, "_started", lambda pid: "another time")
    run(tmp_path / "out", {ROWS: "1"}, [ROWS])
    assert (tmp_path / "out" / ROWS).read_text() == "1"


@pytest.fixture
def elsewhere(monkeypatch):
    """This is another machine, that is not patient."""
    monkeypatch.setattr(lock, "_machine", lambda: "elsewhere")
    monkeypatch.setattr(lock, "WATCH", 0.5)


def test_a_run_on_another_machine_that_shows_no_life_is_no_obstacle(tmp_path, holder, elsewhere, monkeypatch, capsys):
    os.kill(holder.pid, signal.SIGSTOP)  # which is as dead as one on another machine can be seen to be
    run(tmp_path / "out", {ROWS: "1"}, [ROWS])
    assert f"is of process {holder.pid} on" in capsys.readouterr().err
    assert (tmp_path / "out" / ROWS).read_text() == "1"


def test_a_run_on_another_machine_that_shows_life_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    out = tmp_path / "out"
    with folder_aside(out, files=[ROWS]):
        monkeypatch.setattr(lock, "_machine", lambda: "elsewhere")
        with pytest.raises(OptionError, match="another run writes into"):
            refused(out)


def test_a_run_that_was_taken_for_dead_does_not_replace_what_the_other_wrote(tmp_path):
    out = tmp_path / "out"

    def meanwhile(aside):
        write(aside, {ROWS: "late"})
        (out / LOCK).unlink()
        run(out, {ROWS: "1"}, [ROWS])

    with pytest.raises(OptionError, match="this run has lost"):
        run_with(out, [ROWS], meanwhile)
    assert (out / ROWS).read_text() == "1"


def test_the_lock_of_a_run_that_came_in_between_stays(tmp_path, monkeypatch):
    of_other, read = '{"format": "fxprune-lock", "token": "b"}', lock._read

    def slow(path):
        found = read(path)
        if path.name == LOCK:  # meanwhile
            path.unlink()
            path.write_text(of_other)
        return found

    with lock.locked(tmp_path, "a"):
        monkeypatch.setattr(lock, "_read", slow)
    assert written(tmp_path) == [LOCK]
    assert (tmp_path / LOCK).read_text() == of_other


@pytest.mark.parametrize("content", ["", "mine", "[]", "{}"])
def test_a_file_in_the_place_of_the_lock(tmp_path, content, elsewhere):
    write(tmp_path, {LOCK: content})
    if content:
        with pytest.raises(OptionError, match="in the place of our lock"):
            refused(tmp_path)
        assert (tmp_path / LOCK).read_text() == content
    else:  # of a run that was killed before it had written its name
        run(tmp_path, {ROWS: "1"}, [ROWS])


def test_a_lock_that_a_full_disk_does_not_take_is_not_left_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        refused(tmp_path / "out")
    assert written(tmp_path) == []
