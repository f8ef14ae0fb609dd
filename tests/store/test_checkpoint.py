"""Checkpoints of a training: written whole, read where they can be, and what a stop or a bad loss says of them."""

from __future__ import annotations

import os
import signal
import threading
from random import Random

import pytest
import torch
from helpers.image_folder import make_folder, timm_leaves_files_open
from helpers.points import linear, points, weights
from torch import nn

from fxprune.errors import CheckpointError, DivergedError, StoppedError
from fxprune.models_zoo.data import load_data
from fxprune.passes.store import seal
from fxprune.passes.store.checkpoint import Checkpoint
from fxprune.passes.store.seal import write_sealed
from fxprune.passes.train.fit import train
from fxprune.passes.train.loop import Training
from fxprune.passes.train.ranks import Ranks
from fxprune.passes.train.signals import stop_requests


def checkpoint(folder, every=0, **identity):
    return Checkpoint(folder / "train.pt", identity, every)


STATE = {"steps": 1, "tensors": {"a": torch.tensor([1.0, -0.0, float("inf")])}, "pair": (1, "two", None)}


def test_what_is_written_is_read(tmp_path):
    saved = checkpoint(tmp_path, lr=0.1)
    assert saved.read() is None
    saved.write(STATE)
    state = saved.read()
    assert (state["steps"], state["pair"]) == (1, (1, "two", None))
    assert torch.equal(state["tensors"]["a"], STATE["tensors"]["a"])
    assert checkpoint(tmp_path, lr=0.1).read(peek=True)["steps"] == 1
    assert Checkpoint(tmp_path / "train.pt", {}, resume=False).read() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.pt"]


@pytest.mark.parametrize(
    ("there", "here", "says"),
    [
        ({"lr": 0.1}, {"lr": 0.2}, "`lr` is 0.1 there and 0.2 here"),
        ({"lr": 0.1}, {"lr": 0.1, "ema": 0.9}, "`ema` is None there and 0.9 here"),
        ({"lr": 0.1, "ema": 0.9}, {"lr": 0.1}, "`ema` is 0.9 there and None here"),
    ],
)
def test_a_checkpoint_of_another_job_is_refused(tmp_path, there, here, says):
    checkpoint(tmp_path, **there).write(STATE)
    with pytest.raises(CheckpointError, match=says):
        checkpoint(tmp_path, **here).read()


def flipped(at):
    """One bit flipped at a share of the file."""

    def flip(data):
        data = bytearray(data)
        data[int(at * (len(data) - 1))] ^= 1
        return bytes(data)

    return flip


DAMAGE = [lambda data: data[:100], lambda data: b"", lambda data: b"x" * len(data), *map(flipped, (0, 0.3, 0.6, 1))]


@pytest.mark.parametrize("damage", DAMAGE)
def test_where_the_last_one_is_damaged_the_one_before_counts(tmp_path, capsys, damage):
    saved = checkpoint(tmp_path)
    saved.write({**STATE, "steps": 1})
    saved.write({**STATE, "steps": 2})
    assert saved.read()["steps"] == 2
    saved.path.write_bytes(damage(saved.path.read_bytes()))
    assert saved.read()["steps"] == 1
    assert "the checkpoint before it is taken" in capsys.readouterr().err
    saved.previous.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"can be read: .*train\.pt: .*train\.previous\.pt: .*Remove"):
        saved.read()


def test_no_code_in_a_checkpoint_is_run(tmp_path):
    saved = checkpoint(tmp_path)
    write_sealed(saved.path, lambda file: torch.save({"state": pytest.fail}, file))
    with pytest.raises(CheckpointError, match="UnpicklingError"):
        saved.read()


def test_every_flipped_bit_of_a_checkpoint_is_found(tmp_path):
    saved = checkpoint(tmp_path)
    saved.write(STATE)
    data, random = saved.path.read_bytes(), Random(0)
    for _ in range(300):
        damaged, place = bytearray(data), random.randrange(8 * len(data))
        damaged[place // 8] ^= 1 << place % 8
        saved.path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="no checkpoint can be read"):
            saved.read()


def test_what_the_disk_does_not_give_back_does_not_replace_the_last_one(tmp_path, monkeypatch):
    saved = checkpoint(tmp_path)
    saved.write({**STATE, "steps": 1})
    monkeypatch.setattr(seal.os, "fsync", lambda descriptor: os.truncate(descriptor, 300))
    with pytest.raises(OSError, match="does not give back what was written"):
        saved.write({**STATE, "steps": 2})
    assert saved.read()["steps"] == 1


OPTIONS = {"epochs": 3, "lr": 0.1, "progress": False}
MIXED = {"mixup": 0.3, "cutmix": 1.0, "mixup_prob": 0.8}
CASES = {
    "plain": {},
    "accumulated": {"accumulate": 3},
    "mixed and averaged": {**MIXED, "ema": 0.8},
    "scaled": {"amp": "float16", "clip_grad": 0.1},
    "bfloat16, channels last": {"amp": "bfloat16", "channels_last": True},
    "adamw": {"optimizer": "adamw", "clip_grad": 0.1, "clip_mode": "agc"},
    "lion": {"optimizer": "lion", "scheduler": "multistep", "decay_milestones": [1.5, 2]},
    "lookahead": {"optimizer": "lookahead_sgd"},
}


class Stops(BaseException):
    pass


@pytest.mark.parametrize("case", CASES)
def test_a_training_that_breaks_off_ends_as_if_it_had_not(tmp_path, monkeypatch, case):
    expected = convolution()
    log = train(expected, points(), **OPTIONS, **CASES[case])
    take, taken = Training.train_step, []

    def breaking(self, batches):
        take(self, batches)
        taken.append(1)
        if len(taken) in (1, 4, 6, 7, 10):
            raise Stops

    monkeypatch.setattr(Training, "train_step", breaking)
    runs = 0
    while True:
        runs += 1
        model = convolution()
        try:
            again = train(model, points(), **OPTIONS, **CASES[case], checkpoint=checkpoint(tmp_path, every=2))
            break
        except Stops:
            torch.rand(3)  # what is drawn elsewhere does not matter
    assert runs > 3
    assert torch.equal(weights(model), weights(expected))
    seen = [(e.number, e.steps, e.loss, e.accuracy, e.lr) for e in again.epochs]
    assert seen == [(e.number, e.steps, e.loss, e.accuracy, e.lr) for e in log.epochs]


@timm_leaves_files_open
@pytest.mark.parametrize("workers", [0, 2])
def test_with_worker_processes_that_augment_it_ends_as_if_it_had_not_broken_off(tmp_path, monkeypatch, workers):
    root = make_folder(tmp_path, size=(12, 12), each=6)
    options = {"batch_size": 2, "workers": workers, "auto_augment": "rand-m9-n2", "random_erasing": 0.5}
    take, steps = Training.train_step, []

    def run(stop_at=None, **more):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        steps.clear()

        def breaking(self, batches):
            take(self, batches)
            steps.append(batches[0][0])
            if len(steps) == stop_at:
                raise Stops

        monkeypatch.setattr(Training, "train_step", breaking)
        data = load_data(str(root), **options)
        train(model, data, **{**OPTIONS, "epochs": 2}, mixup=0.3, **more)
        return weights(model)

    expected = run()
    assert len(steps) == 12 and not torch.equal(steps[0], steps[6])
    with pytest.raises(Stops):
        run(10, checkpoint=checkpoint(tmp_path, every=4))
    torch.rand(3)  # what is drawn elsewhere does not matter
    again = run(checkpoint=checkpoint(tmp_path, every=4))
    assert len(steps) == 4 and torch.equal(again, expected)


def convolution():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(3, 2)
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_writes_a_checkpoint_and_tells_how_to_go_on(tmp_path, monkeypatch, number):
    expected, model = linear(dropout=0.5), linear(dropout=0.5)
    train(expected, points(), **OPTIONS)
    take, before = Training.train_step, signal.getsignal(number)

    def signalled(self, batches):
        if self._done == 5:
            os.kill(os.getpid(), number)
        take(self, batches)

    monkeypatch.setattr(Training, "train_step", signalled)
    says = rf"stopped by {number.name} after step 6 of 12 of `train`; the checkpoint is .*train\.pt.*--resume"
    with pytest.raises(StoppedError, match=says) as caught:
        train(model, points(), **OPTIONS, checkpoint=checkpoint(tmp_path))
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    train(model, points(), **OPTIONS, checkpoint=checkpoint(tmp_path))
    assert torch.equal(weights(model), weights(expected))


class Agreeing(Ranks):
    """One of several processes; a signal comes to this one just after it told the others that it had none."""

    def __init__(self, late=0, others=None):
        super().__init__()
        # the number of the agreement after which it comes here; those at which others have got it
        self.__dict__.update(late=late, others=others or {}, calls=[])

    def largest(self, number):
        self.calls.append("agree")
        if (count := self.calls.count("agree")) == self.late:
            os.kill(os.getpid(), signal.SIGTERM)
        return max(number, self.others.get(count, 0))

    def wait(self):
        self.calls.append("save")


def stopped(folder, ranks):
    """After which step, and what the process did together with the others."""
    with pytest.raises(StoppedError) as caught:
        train(linear(), points(), **OPTIONS, checkpoint=checkpoint(folder), ranks=ranks)
    return str(caught.value).partition("; ")[0], ranks.calls


def test_a_signal_that_comes_after_the_processes_agreed_waits_for_the_next_step(tmp_path):
    after, calls = stopped(tmp_path, Agreeing(late=2))
    assert after == "stopped by SIGTERM after step 3 of 12 of `train`"
    assert calls[-3:] == ["agree", "agree", "save"]  # the others, who do not know, go on to the next step


@pytest.mark.parametrize("ranks", [Agreeing(late=12), Agreeing(others={13: signal.SIGTERM})], ids=["here", "elsewhere"])
def test_a_signal_that_comes_to_one_process_after_the_last_step_stops_all_before_the_next_phase(tmp_path, ranks):
    after, calls = stopped(tmp_path, ranks)
    assert after == "stopped by SIGTERM after step 12 of 12 of `train`"
    assert calls[-3:] == ["agree", "save", "agree"]


def test_a_second_signal_has_its_usual_effect():
    with stop_requests() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            signal.raise_signal(signal.SIGINT)
        assert request.signal is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_does_not_listen_to_signals():
    seen = []

    def inside():
        with stop_requests() as request:
            seen.append(request.signal)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [None]


def test_a_bad_loss_names_its_step_and_the_last_good_checkpoint(tmp_path):
    with pytest.raises(DivergedError, match=r"nan at epoch 1, step 3 of 4, .* checkpoint is .*train\.pt, after step 2"):
        train(linear(), points(bad=40), **OPTIONS, checkpoint=checkpoint(tmp_path, every=1))
    assert checkpoint(tmp_path).read()["steps"] == 2


def test_weights_that_are_not_numbers_are_not_written(tmp_path, monkeypatch):
    take = Training.train_step

    def spoiling(self, batches):
        take(self, batches)
        if self._done == 4:
            with torch.no_grad():
                self._model[2].weight[0, 0] = float("nan")

    monkeypatch.setattr(Training, "train_step", spoiling)
    with pytest.raises(DivergedError, match=r"weights are no longer finite at epoch 1, step 4 of 4.*after step 2"):
        train(linear(), points(), **OPTIONS, checkpoint=checkpoint(tmp_path, every=2))


def test_on_a_device_that_is_seldom_asked_the_step_is_named_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("fxprune.passes.train.step.CPU_EVERY", 32)
    with pytest.raises(DivergedError, match=r"loss is nan at epoch 1, step 3 of 4"):
        train(linear(), points(bad=40), **OPTIONS)
