"""The command goes on where it broke off, and does not repeat what is done."""

from __future__ import annotations

import pytest

from benchmarks import runs
from benchmarks.results import command
from benchmarks.results.__main__ import TABLE
from benchmarks.results.journal import ArmJournal
from benchmarks.results.settings import ARMS


def test_a_run_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "BUILD", tmp_path / "work")
    started = []

    def fake(work, tasks, limits, *, jobs, preload):
        for task, _ in tasks:
            started.append((str(task.arm), task.seed))
            if len(started) == 3:
                raise KeyboardInterrupt
            yield task, {"top1": 0.5, "loss": 1.0, "seconds": 1.0}

    monkeypatch.setattr(runs, "run_each", fake)
    arguments = ["--quick", "--only", "*5/8", "--output", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        command.run_table(TABLE, arguments)
    done, started[:] = started[:2], [None] * 3
    assert command.run_table(TABLE, arguments) == 0
    assert len(started[3:]) == sum(arm.keep == "5/8" for arm in ARMS) - 2 and not set(done) & set(started[3:])
    assert len(ArmJournal(tmp_path / "results.csv").rows) == sum(arm.keep == "5/8" for arm in ARMS)
    assert command.run_table(TABLE, [*arguments, "--seeds", "2", "--report"]) == 0
    assert "0 arms run" in capsys.readouterr().out
    assert command.run_table(TABLE, ["--only", "nothing"]) == 2
