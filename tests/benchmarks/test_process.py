"""A process of its own for each network: however it ends, what it knew is told, and the others go on."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
import types

import pytest
import torch
from helpers.benchmarks.coverage import EXAMPLE, good_net
from torch import nn

from benchmarks import process as coverage_process
from benchmarks.checks.examination import examine
from benchmarks.process import Limits, run_each


class Odd(nn.Module):
    def forward(self, x):
        raise ValueError("this network does not run")


# What a child process does for each of the networks below.
def fake_work(name, record):
    record(stage="build", parameters=7)
    if name == "good":
        examine(good_net(), EXAMPLE, record, depth="exact")
    elif name == "raises":
        examine(Odd(), EXAMPLE, record, depth="exact")
    elif name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "leaves":
        os._exit(3)
    elif name == "hangs":
        time.sleep(1000)
    elif name == "hungry":
        torch.empty(2**31)  # 8 GiB, never touched
    elif name == "prints":
        print("a line from a library")


LIMITS = Limits(seconds=1000.0, memory=4 * 2**30)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    names = ("good", "raises", "dies", "leaves", "hungry", "prints")
    found = dict(run_each(fake_work, [(name, logs / name) for name in names], LIMITS, jobs=2))
    assert sorted(found) == sorted(names)
    return found, logs


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("good", None),
        ("raises", "CaptureError: Odd does not run on inputs .*ValueError at .*: this network does not run"),
        ("dies", "the process was killed by SIGKILL"),
        ("leaves", "the process ended with exit code 3"),
        ("hungry", r"RuntimeError: .*allocate memory.* \(the limit is 4 GiB\)"),
        ("prints", None),
    ],
)
def test_a_process_tells_what_it_knew_and_how_it_ended(name, error, outcomes):
    facts = outcomes[0][name]
    assert facts["parameters"] == 7 and facts["seconds"] > 0
    assert "error" not in facts if error is None else re.match(error, facts["error"], re.DOTALL), facts


def test_what_a_process_prints_and_raises_goes_into_its_log(outcomes):
    _, logs = outcomes
    assert (logs / "prints").read_text() == "a line from a library\n"
    assert "this network does not run" in (logs / "raises").read_text()
    assert not (logs / "good").read_text()


def test_a_process_that_takes_too_long_is_ended_and_the_others_go_on(tmp_path, monkeypatch):
    # The clock leaps when the process has told what it knew, however long it took to get there.
    now, listen = [0.0], coverage_process._Running.listen

    def leaping(one):
        alive = listen(one)
        now[0] = 9.0 if "parameters" in one.facts and one.task == "hangs" else now[0]
        return alive

    monkeypatch.setattr(coverage_process._Running, "listen", leaping)
    monkeypatch.setattr(coverage_process, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    tasks = [(name, tmp_path / name) for name in ("hangs", "prints")]
    found = dict(run_each(fake_work, tasks, dataclasses.replace(LIMITS, seconds=8.0)))
    assert found["hangs"] == {
        "stage": "build",
        "parameters": 7,
        "error": "took longer than the limit of 8 s",
        "seconds": found["hangs"]["seconds"],
    }
    assert "error" not in found["prints"]
