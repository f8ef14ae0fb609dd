"""Two processes, as torchrun starts them, train what one process trains; files and messages come once."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.processes import ranks_worker
from helpers.processes.fork_server import start
from torch.distributed import TCPStore

from fxprune.errors import CheckpointError
from fxprune.passes.distributed.ranks import Ranks
from fxprune.passes.job.resume import open_phases
from fxprune.passes.options.job import Job
from fxprune.passes.train.streams import Stream

TESTS = Path(__file__).parents[1]
HANGS = 1000.0  # seconds; nothing here depends on how fast the machine is
RESULTS = ("wide.safetensors", "snapped.safetensors", "plan.json", "weights.safetensors", "network.json", "narrow.onnx")


def torchrun(*arguments, **options):
    path = os.pathsep.join([str(TESTS), *sys.path])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes have left what tests/helpers/processes/ranks_worker.py says."""
    folder = tmp_path_factory.mktemp("ranks")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    logs = [folder / f"{rank}.log" for rank in (0, 1)]
    processes = [start(ranks_worker.run, log, folder, rank, store.port) for rank, log in enumerate(logs)]
    for process in processes:
        process.join(HANGS)
    assert [process.exitcode for process in processes] == [0, 0], [log.read_text() for log in logs if log.exists()]
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """What each of them saw."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@functools.cache
def alone(name):
    return ranks_worker.trained(name)


@pytest.mark.parametrize("name", ranks_worker.TRAININGS)
def test_both_end_with_the_same_bits(folder, name):
    (first, log), (second, same) = (torch.load(folder / f"{name} {rank}.pt") for rank in (0, 1))
    assert log == same
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key


# float32 sums in another order; float16 rounds products at 5e-4, of another scale in each process
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("plain", 1e-6), ("mixed, clipped, accumulated", 1e-6), ("averaged", 1e-6), ("float16", 5e-4)],
)
def test_two_end_where_one_does(folder, name, tolerance):
    ours, log = torch.load(folder / f"{name} 0.pt")
    weights, expected = alone(name)
    for key, tensor in weights.items():
        torch.testing.assert_close(ours[key], tensor, rtol=0, atol=tolerance)
    assert [right for _, *right in log] == [right for _, *right in expected]
    assert [loss for loss, *_ in log] == pytest.approx([loss for loss, *_ in expected], abs=tolerance)


@pytest.mark.parametrize("name", ["plain", "mixed, clipped, accumulated"])
def test_that_is_no_accident_of_weights_that_hardly_move(name):
    before = ranks_worker.network().state_dict()
    moved = [float((after - before[key]).abs().max()) for key, after in alone(name)[0].items()]
    assert min(moved) > 1e-4  # a hundred times what is tolerated above


def test_running_means_are_those_of_all_processes(folder):
    ours, _ = torch.load(folder / "normalised 0.pt")
    weights, _ = alone("normalised")
    # Not the numbers of one process: each normalises by its own images. The mean of the inputs hardly notices.
    torch.testing.assert_close(ours["1.running_mean"], weights["1.running_mean"], rtol=0, atol=0.05)
    assert not torch.equal(ours["1.running_mean"], weights["1.running_mean"])


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("shared error", "PlanError: of the first process"),
        ("one-sided", "ProofError: after training, the weights of process 1 are not those of process 0"),
        ("not a number", "DivergedError: the loss is nan at epoch 1, step 1 of 4"),
        ("small batch", "OptionError: a batch of 3 images cannot be trained on by 2 processes"),
        (
            "plans that differ",
            "PlanError: process 1 has another plan than process 0: 2 groups differ, first `0.weight`",
        ),
        (
            "sharded",
            "OptionError: C-SGD cannot be hooked into `0.weight`, which is a DTensor placed as (Shard(dim=0),)",
        ),
        ("stopped", "StoppedError: stopped by SIGTERM after step 3 of 12 of `csgd`"),
    ],
)
def test_what_goes_wrong_in_one_is_an_error_of_both(found, what, says):
    assert found[0][what].startswith(says), found[0][what]
    assert found[1][what] == found[0][what]


def test_the_hook_in_a_loop_of_ones_own(found):
    weights, deviation = found[0]["own loop"]
    assert found[1]["own loop"] == [weights, deviation]
    sharded, _ = found[0]["own loop, sharded state"]
    assert found[1]["own loop, sharded state"] == found[0]["own loop, sharded state"]
    assert sharded == pytest.approx(weights, abs=1e-6)  # the same steps, gradients in other buckets


def test_odd_cases(found):
    assert [(each["unused"], each["one image"]) for each in found] == [(1, 1), (1, 1)]


def test_a_job_that_was_stopped_goes_on_to_the_same_bytes(folder, found):
    assert found[0]["checkpoints"] == [
        "checkpoints",
        "csgd.pt",
        "files.json",
        "metrics.jsonl",
        "plan.pt",
        "recipe.yaml",
        "train.previous.pt",
        "train.pt",
    ]
    for name in RESULTS:
        assert (folder / "resumed" / name).read_bytes() == (folder / "undisturbed" / name).read_bytes(), name


def test_files_come_once_and_both_processes_have_the_result(folder, found):
    assert found[0]["undisturbed"] == found[1]["undisturbed"]
    assert not [path for path in folder.rglob("*") if path.name.endswith((".part", ".pt")) and path.parent != folder]
    records = (folder / "undisturbed" / "metrics.jsonl").read_text().splitlines()
    assert [(json.loads(line)["phase"], json.loads(line)["epoch"]) for line in records] == [
        ("train", 1),
        ("train", 2),
        ("csgd", 0),
        ("csgd", 1),
        ("csgd", 2),
    ]


def test_another_number_of_processes_is_another_job(tmp_path):
    job = Job(model=ranks_worker.network(), data=ranks_worker.images(), output=tmp_path, resume="auto")
    two, three, one = (
        open_phases(job, job.model, job.data, Ranks(0, count)).checkpoint("train") for count in (2, 3, 1)
    )
    two.write({"steps": 4})
    assert two.read() == {"steps": 4}
    for other, number in ((three, "3"), (one, "None")):
        with pytest.raises(CheckpointError, match=f"`processes` is 2 there and {number} here"):
            other.read()


def test_torchrun_is_asked_to_stop(tmp_path):
    options = [
        "--model",
        "resnet20",
        "--data",
        "digits",
        "--image-size",
        "8",
        "--epochs",
        "50",
        "--checkpoint-every",
        "1",
    ]
    with torchrun("-m", "fxprune", "compress", *options, "--output", str(tmp_path / "out")) as process:
        until = time.monotonic() + HANGS
        while not (tmp_path / "out/checkpoints/train.pt").exists():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=HANGS)
    assert process.returncode != 0
    assert errors.count("fxprune: stopped by SIGTERM after step") == 1
    assert errors.count("fxprune (process 1): stopped by SIGTERM after step") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoints"]


def test_a_stream_apart_neither_disturbs_nor_is_disturbed():
    torch.manual_seed(0)
    expected = torch.rand(4)
    draws = []
    for disturb in (False, True):
        torch.manual_seed(0)
        stream, outside = Stream(torch.device("cpu"), 1, 2), []
        for _ in range(4):
            with stream:
                draws.append(float(torch.rand(())))
            outside.append(float(torch.rand(())))
            if disturb:
                torch.manual_seed(0)
                torch.rand(len(outside))
        assert outside == expected.tolist()
    assert draws[:4] == draws[4:]
    assert len(set(draws)) == 4
