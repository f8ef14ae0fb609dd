"""Real faults: a full disk, killed processes, no memory, a runtime that is missing. Each is told, and loses nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from helpers.command_line import CHECKPOINTS, SMALL, enter, left, run
from helpers.image_folder import make_folder
from helpers.processes.fork_server import command

from fxprune.common.files import write_text
from fxprune.errors import DataError, LostProcessError, StoppedError, is_out_of_memory
from fxprune.passes.distributed.ranks import Ranks
from fxprune.passes.job.resume import Checkpoints
from fxprune.passes.job.training import Trainer
from fxprune.passes.onnx import export_onnx, export_pt2
from fxprune.passes.store import output_folder, write_tensors
from fxprune.passes.store.checkpoint import Checkpoint
from fxprune.passes.train.loop import Training


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    return enter(tmp_path, monkeypatch)


@contextlib.contextmanager
def full(size):
    """No file may become larger, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_state(path, tensors):
    Checkpoint(path, {}).write({"steps": int(tensors["x"][0]), **tensors})


WRITERS = {
    "a checkpoint": ("train.pt", write_state),
    "weights": ("w.safetensors", lambda path, tensors: write_tensors(tensors, path)),
    "text": ("plan.json", lambda path, tensors: write_text(path, str(tensors["x"].tolist()))),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_names_the_file_and_leaves_the_one_before(place, name):
    file, write = WRITERS[name]
    write(place / file, {"x": torch.zeros(50_000)})
    before = (place / file).read_bytes()
    with full(40_000), pytest.raises(OSError, match=rf"File too large: '.*{file}'"):
        write(place / file, {"x": torch.ones(50_000)})
    assert left(place) == [file] and (place / file).read_bytes() == before


def test_a_disk_without_any_room(place):
    write = "import sys; from fxprune.common.files import write_text; write_text(sys.argv[1], 'x' * 10**6)"
    mount = "mount -t tmpfs -o size=64k none room && cd room && exec"
    (place / "room").mkdir()
    probe = subprocess.run(["unshare", "-m", "sh", "-c", f"{mount} true"], cwd=place, capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"this machine lets nobody mount a small disk: {probe.stderr.decode().strip()}")
    line = ["unshare", "-m", "sh", "-c", f'{mount} {sys.executable} -c "{write}" out.txt']
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, check=False)
    assert "No space left on device: 'out.txt'" in done.stderr


EXPORTS = {"narrow.pt2": export_pt2, "narrow.onnx": export_onnx}


@pytest.mark.parametrize("file", EXPORTS)
def test_an_export_to_a_full_disk_names_the_file_and_leaves_nothing(place, file):
    with full(2_000), pytest.raises(OSError, match=f"File too large: '{place / file}'"):
        EXPORTS[file](torch.nn.Linear(64, 64).eval(), torch.zeros(2, 64), place / file)
    assert left(place) == []


def test_a_lock_that_cannot_be_written_is_not_left_behind(place):
    with full(0), pytest.raises(OSError, match=r"File too large: '.*lock'"), output_folder(place / "out"):
        pytest.fail("locked")
    assert left(place) == []


@pytest.mark.parametrize("size", [3_000, 30_000])
def test_a_run_on_a_full_disk_says_what_was_kept_and_goes_on_when_there_is_room(capsys, place, size):
    """The smaller size has no room for a checkpoint, the larger none for the second, which is that of the weights."""
    with full(size):
        code, _, err = run(capsys, f"{SMALL} --output out --quiet")
    message = err.splitlines()[-1]
    assert (code, "File too large" in message, "Traceback" in err) == (2, True, False)
    if size < 10_000:
        assert left(place) == []
        return
    assert "what was done is in out/checkpoints. To go on, give the same options" in message
    assert set(left(place)) == {"out", *CHECKPOINTS} - {"out/checkpoints/csgd.pt"}
    assert run(capsys, f"{SMALL} --output out --quiet --resume auto")[0] == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_reader_of_images_that_is_killed_is_told_with_the_way_to_go_on(capsys, place, monkeypatch):
    make_folder(place, size=(12, 12), each=12)
    take = Training.train_step

    def killing(self, batches):
        take(self, batches)
        if self._done == 4:
            for child in torch.multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
                child.join()  # until then it counts as alive

    monkeypatch.setattr(Training, "train_step", killing)
    line = "compress --model resnet20 --data . --epochs 1 --batch-size 2 --workers 1 --checkpoint-every 1 --output out"
    code, _, err = run(capsys, line + " --quiet")
    message = err.splitlines()[-1]
    assert (code, "a process that reads images ended" in message, "--resume" in message) == (2, True, True)


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError])
def test_a_reader_of_images_that_has_just_died_is_told_as_well(place, monkeypatch, error):
    checkpoints = Checkpoints(place / "checkpoints", {}, 0, True)
    checkpoints.checkpoint("train").write({"steps": 1})
    loader = iter(torch.utils.data.DataLoader([0, 1], num_workers=1))

    def lost(*_, **__):
        raise error

    monkeypatch.setattr(loader._data_queue, "get", lost)
    with pytest.raises(DataError, match=r"a process that reads images ended .*--resume"), checkpoints.stoppable():
        next(loader)
    with pytest.raises(error), checkpoints.stoppable():
        lost()


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (lambda: SystemExit(143), 143)])
def test_a_signal_before_the_first_checkpoint_says_that_nothing_was_kept(place, error, code):
    with pytest.raises(StoppedError, match="before the first checkpoint: nothing was kept") as told:
        _stop(Checkpoints(place / "checkpoints", {}, 0, True), error())
    assert told.value.exit_code == code and left(place) == []


def _stop(checkpoints, error):
    with checkpoints.stoppable():
        raise error


def no_memory():
    torch.empty(1 << 60)


def no_memory_in_python():
    raise MemoryError


@pytest.mark.parametrize("fail", [no_memory, no_memory_in_python])
def test_no_memory_is_told_with_the_way_to_go_on(capsys, place, monkeypatch, fail):
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: fail())
    code, _, err = run(capsys, f"{SMALL} --output out --quiet")
    message = err.splitlines()[-1]
    assert (code, message.startswith("fxprune: out of memory: "), "--resume" in message) == (2, True, True)
    assert set(left(place)) == {"out", *CHECKPOINTS}


def test_out_of_memory_by_all_its_names():
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    wrapped = ValueError("outer")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert is_out_of_memory(wrapped)


def test_without_onnxruntime_nothing_is_trained(capsys, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(Trainer, "train_wide", lambda *_: pytest.fail("trained"))
    code, _, err = run(capsys, f"{SMALL} --output out --quiet")
    assert (code, "onnxruntime, which checks every exported file, cannot be loaded" in err) == (2, True)
    assert left(place) == []


def test_onnxruntime_that_fails_leaves_what_was_trained(capsys, place, monkeypatch):
    import onnxruntime

    def failing(*_, **__):
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr(onnxruntime, "InferenceSession", failing)
    code, _, err = run(capsys, f"{SMALL} --output out --quiet")
    assert (code, "cannot load" in err, "illegal instruction" in err) == (2, True, True)
    assert set(left(place)) == {"out", *CHECKPOINTS}


def test_another_process_of_the_training_that_is_killed_is_told_with_the_way_to_go_on(place):
    checkpoints = Checkpoints(place / "checkpoints", {}, 0, True, Ranks(0, 2))
    checkpoints.checkpoint("train").write({"steps": 1})
    with pytest.raises(LostProcessError, match=r"another process .*Connection reset.*what was done is in .*--resume"):
        _lose(checkpoints)


def _lose(checkpoints):
    with checkpoints.stoppable():  # these are Gloo's words, of a real one
        raise RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:46746: Connection reset by peer.")


def test_a_run_that_is_killed_and_one_beside_it(capsys, place, tmp_path_factory):
    words = "compress --model resnet20 --data digits --output out --csgd-epochs 1"
    with command(words, place, tmp_path_factory.mktemp("stderr") / "pipe") as (process, errors):
        for text in errors:
            if text.startswith("build"):
                break
        code, _, err = run(capsys, f"{SMALL} --output out")
        assert (code, f"another run writes into {place / 'out'}: process {process.pid} on" in err) == (2, True)
    assert run(capsys, f"{SMALL} --output out --quiet")[0] == 0
    assert not [name for name in left(place / "out") if name.startswith((".", "checkpoints"))]
