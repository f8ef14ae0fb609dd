"""A run that fails or is stopped says so, and leaves only what helps to go on."""

from __future__ import annotations

import os
import re
import signal

import pytest
import torch
from helpers.command_line import CHECKPOINTS, RESULTS, SMALL, enter, files, left, run
from helpers.processes.fork_server import command

from fxprune.errors import ExportError
from fxprune.passes.job import compression
from fxprune.passes.job import trim as compress_trim
from fxprune.passes.rewrite.narrow import narrow
from fxprune.passes.verify import localise


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, untimed):
    return enter(tmp_path, monkeypatch)


class Full(OSError):
    def __init__(self):
        super().__init__(28, "No space left on device", "out/wide.safetensors")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt, 130, "stopped by SIGINT; what was done is in deep/out/checkpoints"),
        (
            Full,
            2,
            "out/wide.safetensors: No space left on device; what was done is in deep/out/checkpoints. To go on, give "
            "the same options and `resume` (--resume) auto.",
        ),
        (ZeroDivisionError, 1, "unexpected ZeroDivisionError: no message"),
    ],
)
def test_a_run_that_breaks_off_leaves_only_checkpoints(capsys, monkeypatch, place, error, code, says):
    def fail(*_):
        raise error

    monkeypatch.setattr(compression, "trim", fail)
    got, _, err = run(capsys, SMALL + " --output deep/out")
    assert (got, left(place / "deep"), "Traceback" in err) == (code, ["out", *CHECKPOINTS], False)
    assert says in err.splitlines()[-1]


def test_a_run_that_is_terminated_leaves_a_checkpoint(place, tmp_path_factory):
    options = "--model resnet20 --data digits --image-size 8 --epochs 1000 --output out"
    with command(f"compress {options}", place, tmp_path_factory.mktemp("stderr") / "pipe") as (process, errors):
        for text in errors:
            if text.startswith("  epoch 1"):
                break
        os.kill(process.pid, signal.SIGTERM)
        *_, message = errors.read().splitlines()
        process.join()
    assert (process.exitcode, "stopped by SIGTERM after step" in message) == (143, True)
    names = ["", "/files.json", "/metrics.jsonl", "/recipe.yaml", "/train.previous.pt", "/train.pt"]
    assert left(place) == ["out", *(f"out/checkpoints{name}" for name in names)]


def test_a_trim_that_changes_a_prediction_fails_loudly(capsys, monkeypatch, place):
    def wrong(model, plan, **options):
        net = narrow(model, plan, **options)
        if "second.weight" in plan.clusters:
            with torch.no_grad():
                net.head.weight.neg_()
        return net

    monkeypatch.setattr(compress_trim, "narrow", wrong)
    monkeypatch.setattr(localise, "narrow", wrong)
    code, _, err = run(capsys, SMALL + " --output out")
    assert (code, "Traceback" in err) == (1, False)
    assert re.search(r"[1-9]\d* of 360 test images", err)
    assert "the worst group is `second.weight`" in err
    kept = {"wide.safetensors", "snapped.safetensors", "plan.json", "metrics.jsonl", "recipe.yaml", "manifest.json"}
    assert files(place / "out") == kept


def test_an_export_that_disagrees_keeps_its_file(capsys, monkeypatch, place):
    def wrong(module, example, path, **_):
        path.write_bytes(b"wrong")
        raise ExportError(f"{path} and the network disagree.")

    monkeypatch.setattr(compression, "export_onnx", wrong)
    code, _, err = run(capsys, SMALL + " --output out")
    assert (code, err.splitlines()[-1]) == (1, "fxprune: out/narrow.onnx and the network disagree.")
    late = {"summary.json", "summary.csv", "deviation.svg", "report.json", "report.md", "report.html"}
    assert files(place / "out") == RESULTS - late
    assert (place / "out" / "narrow.onnx").read_bytes() == b"wrong"
