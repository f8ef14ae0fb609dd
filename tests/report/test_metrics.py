"""Records are on disk at once, and a resumed run leaves the file of an undisturbed one."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch

from fxprune.errors import CheckpointError, OptionError
from fxprune.passes.report.metrics import EVENTS, METRICS, Metrics, read_metrics


def run(folder, steps, **options):
    """A run that records its loss at every step, and every second step the accuracy of an epoch besides."""
    with Metrics(folder, **options) as metrics:
        for step in steps:
            phase = "train" if step <= 4 else "csgd"
            metrics.record(phase=phase, epoch=(step + 1) // 2, step=step, loss=1 / step)
            if step % 2 == 0:
                metrics.record(phase=phase, epoch=step // 2, step=step, top1=step / 10)
    return (folder / METRICS).read_text()


def test_a_record_can_be_read_as_soon_as_it_is_made(tmp_path):
    with Metrics(tmp_path / "out") as metrics:
        metrics.record(phase="csgd", epoch=1, step=7, loss=0.5)
        assert read_metrics(tmp_path / "out") == [{"phase": "csgd", "epoch": 1, "step": 7, "loss": 0.5}]


@pytest.mark.parametrize("torn", ["", '{"phase": "cs', '{"phase": "csgd", "epoch": 4, "step": 8, "loss": 0.125}'])
@pytest.mark.parametrize("again", [0, 1], ids=["checkpoint after its record", "checkpoint before its record"])
@pytest.mark.parametrize("checkpoint", range(8))
def test_a_resumed_run_leaves_the_same_file(tmp_path, checkpoint, again, torn):
    undisturbed = run(tmp_path / "a", range(1, 9))
    run(tmp_path / "b", range(1, 8))
    with open(tmp_path / "b" / METRICS, "a", encoding="utf-8") as file:
        file.write(torn)  # killed in the middle of a line
    assert run(tmp_path / "b", range(max(1, checkpoint + 1 - again), 9), resume_at=checkpoint) == undisturbed


def test_a_new_run_replaces_the_file_of_another(tmp_path):
    run(tmp_path, range(1, 9))
    assert run(tmp_path, [1]) == '{"phase": "train", "epoch": 1, "step": 1, "loss": 1.0}\n'


def test_resuming_without_a_file_begins_one(tmp_path):
    run(tmp_path, [6, 7], resume_at=5)
    assert [record["step"] for record in read_metrics(tmp_path)] == [6, 6, 7]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (math.nan, "null"),
        (-math.inf, "null"),
        (torch.tensor(math.inf), "null"),
        (None, "null"),
        (torch.tensor(0.5), "0.5"),
        (np.float32(0.25), "0.25"),
        (np.int64(3), "3"),
        (10**30, str(10**30)),
        (True, "true"),
        ("conv1.weight:0", '"conv1.weight:0"'),
    ],
)
def test_every_scalar_is_json(tmp_path, value, stored):
    with Metrics(tmp_path) as metrics:
        metrics.record(phase="csgd", epoch=1, step=1, value=value)
    assert f'"value": {stored}}}' in (tmp_path / METRICS).read_text()


def test_steps_that_begin_again_in_a_phase_are_refused(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.record(phase="train", epoch=1, step=7)
        with pytest.raises(OptionError, match="step 1 in phase `csgd` cannot follow one of step 7"):
            metrics.record(phase="csgd", epoch=1, step=1)


@pytest.mark.parametrize("line", ["garbage", "[]", "{}", '{"phase": "csgd", "epoch": 1, "step": null}'])
def test_a_damaged_line_is_named(tmp_path, line):
    good = json.dumps({"phase": "csgd", "epoch": 1, "step": 1})
    (tmp_path / METRICS).write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(CheckpointError, match="line 2"):
        read_metrics(tmp_path)


def test_no_file_is_a_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match=METRICS):
        read_metrics(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # within TensorBoard
def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, range(1, 7), tensorboard=True)
    run(tmp_path, range(5, 9), tensorboard=True, resume_at=4)
    events = EventAccumulator(str(tmp_path / EVENTS)).Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/top1", "csgd/loss", "csgd/top1"}
    recorded = [(event.step, event.value) for event in events.Scalars("csgd/loss")]
    # TensorBoard stores float32
    assert recorded == [(step, pytest.approx(1 / step, rel=1e-6)) for step in range(5, 9)]


def test_missing_tensorboard_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(OptionError, match=r"pip install 'fxprune\[tensorboard\]'"):
        Metrics(tmp_path, tensorboard=True)
    assert not list(tmp_path.iterdir())
