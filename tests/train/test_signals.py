"""A signal ends the step, writes a checkpoint, and says how to go on, on all processes together."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from helpers.networks.points import linear, points, weights

from fxprune.errors import StoppedError
from fxprune.passes.distributed.ranks import Ranks
from fxprune.passes.store.checkpoint import Checkpoint
from fxprune.passes.train.fit import train
from fxprune.passes.train.loop import Training
from fxprune.passes.train.signals import stop_requests

OPTIONS = {"epochs": 3, "lr": 0.1, "progress": False}


def checkpoint(folder, every=0):
    return Checkpoint(folder / "train.pt", {}, every)


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
